"What the streams promise, for any documents, batch size and number of processes."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sentnb.data.streams import ShardStream, WindowStream, assign_shards
from sentnb.data.token_files import TokenFile
from sentnb.data.tokenizers import CharTokenizer

documents = st.lists(st.binary(max_size=40), min_size=1, max_size=40)
layouts = st.fixed_dictionaries(dict(batch_size=st.integers(1, 9), seq_len=st.integers(1, 12),
                                     docs_per_shard=st.integers(1, 7), seed=st.integers(0, 5), shuffle=st.booleans()))
world_sizes = st.integers(1, 4)
quick = settings(max_examples=50, deadline=None)


def corpus(texts, legacy=False): return TokenFile.from_texts(texts, CharTokenizer(legacy))


def ranks(token_file, world_size, **layout):
    "The streams of all ranks; there are no more ranks than rows."
    world_size = min(world_size, layout["batch_size"])
    return [ShardStream(token_file, rank=r, world_size=world_size, **layout) for r in range(world_size)]


def whole_epoch(stream):
    "Everything an epoch holds, end to end: inputs, targets, reset, mask, each (rows, positions)."
    batches = list(stream)
    return [torch.cat([b[i] for b in batches], 1).numpy() for i in range(4)] if batches else None


def equal(a, b): return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stacked(parts):
    "The batches of several ranks as one."
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


@quick
@given(documents, layouts, world_sizes)
def test_every_token_is_a_target_exactly_once_over_all_ranks(texts, layout, world_size):
    token_file = corpus(texts)
    streams = ranks(token_file, world_size, **layout)
    targets = [b.targets[b.mask] for stream in streams for b in stream]
    counts = np.bincount(torch.cat(targets) if targets else [], minlength=257)
    assert counts[0] == 0
    np.testing.assert_array_equal(counts[1:], np.bincount(token_file.tokens, minlength=256))


@quick
@given(documents, layouts)
def test_rows_are_whole_shards_in_their_order(texts, layout):
    "Cut a row at its resets: the spans of all rows are the shards, whole, and nothing else."
    n = layout["docs_per_shard"]
    shards = [b"".join(texts[i:i + n]) for i in range(0, len(texts), n)]
    found = []
    epoch = whole_epoch(ShardStream(corpus(texts), **layout))
    for _, targets, reset, mask in zip(*epoch) if epoch else ():
        end = mask.sum()
        assert mask[:end].all() and not reset[end:].any()
        starts = np.flatnonzero(reset).tolist()
        assert end == 0 or starts[0] == 0
        found += [bytes((targets[a:b] - 1).astype(np.uint8)) for a, b in zip(starts, [*starts[1:], end])]
    assert sorted(found) == sorted(s for s in shards if s)


@quick
@given(documents, layouts)
def test_the_input_is_the_target_before_and_zero_at_a_reset(texts, layout):
    epoch = whole_epoch(ShardStream(corpus(texts), **layout))
    if not epoch: return
    inputs, targets, reset, mask = epoch
    before = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
    np.testing.assert_array_equal(inputs, np.where(reset | ~mask, 0, before))
    assert (targets[~mask] == 0).all()


@quick
@given(documents, layouts, world_sizes, st.integers(0, 3))
def test_processes_share_the_batch_of_one(texts, layout, world_size, epoch):
    token_file = corpus(texts)
    streams = [ShardStream(token_file, **layout), *ranks(token_file, world_size, **layout)]
    for stream in streams: stream.set_epoch(epoch)
    assert len({len(stream) for stream in streams}) == 1
    for whole, *parts in zip(*streams, strict=True): assert equal(whole, stacked(parts))


def two_epochs(stream):
    yield from stream
    yield from stream


@quick
@given(documents, layouts, st.data())
def test_resuming_gives_the_same_batches(texts, layout, data):
    "Stopped anywhere in two epochs, also exactly between them."
    token_file = corpus(texts)
    expected = list(two_epochs(ShardStream(token_file, **layout)))
    at = data.draw(st.integers(0, len(expected)))
    first = ShardStream(token_file, **layout)
    for _ in zip(range(at), two_epochs(first)): pass
    second = ShardStream(token_file, **layout)
    second.load_state_dict(first.state_dict())
    rest = list(two_epochs(second))
    assert len(rest) >= len(expected) - at
    assert all(equal(a, b) for a, b in zip(rest, expected[at:]))


@quick
@given(documents, layouts)
def test_windows_stand_alone_and_hold_the_same_tokens(texts, layout):
    token_file = corpus(texts)
    for w, s in zip(WindowStream(token_file, **layout), ShardStream(token_file, **layout), strict=True):
        assert w.reset[:, 0].all()
        assert equal((w.inputs, w.targets, w.reset[:, 1:], w.mask), (s.inputs, s.targets, s.reset[:, 1:], s.mask))


def test_windows_are_the_same_however_many_are_read_at_once():
    token_file = corpus([bytes([i % 251]) * (i % 90) for i in range(400)])
    stream = ShardStream(token_file, batch_size=5, seq_len=7, docs_per_shard=6)
    at_once = stream.read_windows(0, len(stream))
    for i in range(len(stream)):
        window = slice(7 * i, 7 * i + 7)
        for alone, together in zip(stream.read_windows(i, 1), at_once, strict=True):
            np.testing.assert_array_equal(alone, together[:, window])


def test_resuming_on_another_number_of_processes():
    token_file = corpus([b"some text " * (i % 7) for i in range(90)])
    layout = dict(batch_size=6, seq_len=8, docs_per_shard=4)
    one = ShardStream(token_file, **layout)
    for _ in zip(range(3), one): pass
    two = ranks(token_file, 2, **layout)
    for stream in two: stream.load_state_dict(one.state_dict())
    for whole, *parts in zip(one, *two, strict=True): assert equal(whole, stacked(parts))


def test_an_empty_corpus_has_no_windows():
    assert len(ShardStream(corpus([]), 4, 8)) == 0
    assert list(ShardStream(corpus([b""]), 4, 8)) == []


@pytest.mark.parametrize("legacy, expected", [(False, [66, 67, 0, 0]), (True, [65, 66, 0, 0])])
def test_legacy_ids(legacy, expected):
    batch = next(iter(ShardStream(corpus([b"AB"], legacy), 1, 4)))
    assert batch.targets[0].tolist() == expected
    assert batch.inputs[0, 0] == 0


@quick
@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 9))
def test_rows_differ_by_one_shard_at_most(lengths, n_rows):
    rows = assign_shards(np.array(lengths, int), n_rows)
    row_lengths = np.bincount(rows, weights=lengths, minlength=n_rows)
    assert row_lengths.max() - row_lengths.min() <= max(lengths, default=0)
