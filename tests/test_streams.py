"What the streams promise, for any documents, batch and number of processes."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sentnb.data.streams import ShardStream, WindowStream, deal, length_buckets
from sentnb.data.token_files import TokenFile
from sentnb.data.tokenizers import CharTokenizer

documents = st.lists(st.binary(max_size=40), min_size=1, max_size=40)
layouts = st.fixed_dictionaries(dict(batch_size=st.integers(1, 9), seq_len=st.integers(1, 12), docs_per_shard=st.integers(1, 7),
                                     seed=st.integers(0, 5), shuffle=st.booleans()))
quick = settings(max_examples=50, deadline=None)


def corpus(texts, legacy=False): return TokenFile.from_texts(texts, CharTokenizer(legacy))


def rows_of(stream):
    "Everything an epoch holds, end to end: inputs, targets, reset, mask, each (rows, positions)."
    batches = list(stream)
    return [torch.cat([b[i] for b in batches], 1).numpy() for i in range(4)] if batches else None


def equal(a, b): return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@quick
@given(documents, layouts, st.integers(1, 4))
def test_every_token_is_a_target_exactly_once_over_all_ranks(texts, layout, world):
    tf, world = corpus(texts), min(world, layout["batch_size"])
    targets = [b.targets[b.mask] for r in range(world) for b in ShardStream(tf, rank=r, world_size=world, **layout)]
    counts = np.bincount(torch.cat(targets) if targets else [], minlength=257)
    assert counts[0] == 0
    np.testing.assert_array_equal(counts[1:], np.bincount(tf.tokens, minlength=256))


@quick
@given(documents, layouts)
def test_rows_are_whole_shards_in_their_order(texts, layout):
    "Cut a row at its resets: the pieces of all rows are the shards, whole, and nothing else."
    tf, n = corpus(texts), layout["docs_per_shard"]
    shards = [b"".join(texts[i:i + n]) for i in range(0, len(texts), n)]
    everything = rows_of(ShardStream(tf, **layout))
    found = []
    if everything:
        for _, targets, reset, mask in zip(*everything):
            assert mask[:mask.sum()].all() and not reset[mask.sum():].any()
            starts = np.flatnonzero(reset).tolist()
            assert not mask.any() or starts[0] == 0
            found += [bytes((targets[a:b] - 1).astype(np.uint8)) for a, b in zip(starts, [*starts[1:], mask.sum()])]
    assert sorted(found) == sorted(s for s in shards if s)


@quick
@given(documents, layouts)
def test_the_input_is_the_target_before_and_zero_at_a_reset(texts, layout):
    everything = rows_of(ShardStream(corpus(texts), **layout))
    if not everything: return
    inputs, targets, reset, mask = everything
    before = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
    np.testing.assert_array_equal(inputs, np.where(reset | ~mask, 0, before))
    assert (targets[~mask] == 0).all()


@quick
@given(documents, layouts, st.integers(1, 4), st.integers(0, 3))
def test_processes_share_the_batch_of_one(texts, layout, world, epoch):
    tf, world = corpus(texts), min(world, layout["batch_size"])
    streams = [ShardStream(tf, **layout)] + [ShardStream(tf, rank=r, world_size=world, **layout) for r in range(world)]
    for s in streams: s.set_epoch(epoch)
    assert len({len(s) for s in streams}) == 1
    for whole, *parts in zip(*streams, strict=True):
        assert equal(whole, [torch.cat(p) for p in zip(*parts)])


def two_epochs(stream): yield from stream; yield from stream


@quick
@given(documents, layouts, st.data())
def test_resuming_gives_the_same_batches(texts, layout, data):
    "Stopped anywhere in two epochs, also exactly between them."
    tf = corpus(texts)
    expected = list(two_epochs(ShardStream(tf, **layout)))
    at = data.draw(st.integers(0, len(expected)))
    first, second = ShardStream(tf, **layout), ShardStream(tf, **layout)
    for _ in zip(range(at), two_epochs(first)): pass
    second.load_state_dict(first.state_dict())
    rest = list(two_epochs(second))
    assert len(rest) >= len(expected) - at
    assert all(equal(a, b) for a, b in zip(rest, expected[at:]))


@quick
@given(documents, layouts)
def test_windows_stand_alone_and_hold_the_same_tokens(texts, layout):
    tf = corpus(texts)
    for w, s in zip(WindowStream(tf, **layout), ShardStream(tf, **layout), strict=True):
        assert w.reset[:, 0].all() and equal((w.inputs, w.targets, w.reset[:, 1:], w.mask), (s.inputs, s.targets, s.reset[:, 1:], s.mask))


def test_blocks_do_not_show():
    "However many windows are cut at once, they are the same."
    tf = corpus([bytes([i % 251]) * (i % 90) for i in range(400)])
    stream = ShardStream(tf, batch_size=5, seq_len=7, docs_per_shard=6)
    whole = stream.block(0, len(stream))
    for i in range(len(stream)):
        for one, part in zip(stream.block(i, 1), whole, strict=True): np.testing.assert_array_equal(one, part[:, 7 * i:7 * i + 7])


def test_resuming_on_another_number_of_processes():
    tf = corpus([b"some text " * (i % 7) for i in range(90)])
    one = ShardStream(tf, batch_size=6, seq_len=8, docs_per_shard=4)
    for _ in zip(range(3), one): pass
    two = [ShardStream(tf, batch_size=6, seq_len=8, docs_per_shard=4, rank=r, world_size=2) for r in range(2)]
    for s in two: s.load_state_dict(one.state_dict())
    for whole, *parts in zip(one, *two, strict=True): assert equal(whole, [torch.cat(p) for p in zip(*parts)])


def test_an_empty_corpus_has_no_windows():
    assert len(ShardStream(corpus([]), 4, 8)) == 0 and list(ShardStream(corpus([b""]), 4, 8)) == []


@pytest.mark.parametrize("legacy", [False, True])
def test_legacy_ids(legacy):
    batch = next(iter(ShardStream(corpus([b"AB"], legacy), 1, 4)))
    assert batch.targets[0].tolist() == ([65, 66, 0, 0] if legacy else [66, 67, 0, 0]) and batch.inputs[0, 0] == 0


@quick
@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 9), st.integers(0, 3))
def test_deal_and_buckets(lengths, n, seed):
    loads = np.bincount(deal(np.array(lengths, int), n), weights=lengths, minlength=n) if lengths else np.zeros(n)
    assert loads.max() - loads.min() <= max(lengths, default=0)
    buckets = length_buckets(np.array(lengths), n, seed)
    assert sorted(i for b in buckets for i in b) == list(range(len(lengths))) and all(len(b) <= n for b in buckets)
    ordered = sorted(([lengths[i] for i in b] for b in buckets), key=lambda b: (b[0], b[-1]))
    assert all(a[-1] <= b[0] for a, b in zip(ordered, ordered[1:]))
