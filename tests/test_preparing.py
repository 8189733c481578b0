"Preparing on real files with real processes: killed, resumed, out of order, out of disk, bounded in memory."
import dataclasses
import errno
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from sentnb.core import SentnbError
from sentnb.data import preparing
from sentnb.data.preparing import PrepareConfig, prepare
from sentnb.data.token_files import TokenFile, verify

WORDS = [w.decode() for w in np.random.default_rng(0).integers(97, 123, (4000, 6), np.uint8).view("S6")[:, 0]]


def write_corpus(path, megabytes, seed=0):
    "JSON lines of made-up reviews; one in ten is a copy, one in a thousand is broken."
    rng, size, last = random.Random(seed), 0, "first"
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else open(path, "w") as f:
        while size < megabytes * 1e6:
            text = last.upper() if rng.random() < .1 else " ".join(rng.choices(WORDS, k=rng.randrange(20, 200))) + "."
            line = json.dumps({"text": text}) + "\n" if rng.random() > .001 else '{"text": \n'
            size, last = size + f.write(line), text
    return str(path)


def contents(folder):
    "Everything a corpus is, as one string to compare."
    manifest = verify(folder)
    return json.dumps([manifest["splits"], manifest["counts"]]) + (Path(folder) / "quarantine.jsonl").read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory): return write_corpus(tmp_path_factory.mktemp("source") / "reviews.jsonl.gz", 13)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    prepare(PrepareConfig(data=(source,), folder=str(folder), processes=1))
    return contents(folder)


PROGRAM = """
import sys
from sentnb.data.preparing import PrepareConfig, prepare
if __name__ == "__main__": prepare(PrepareConfig(data=(sys.argv[1],), folder=sys.argv[2], processes=int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program, source, folder, processes):
    return subprocess.Popen([sys.executable, program, source, folder, str(processes)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def test_two_processes_make_what_one_makes(program, source, expected, tmp_path):
    process = start(program, source, tmp_path, 2)
    assert process.wait(120) == 0, process.stderr.read()
    assert contents(tmp_path) == expected
    assert not list(tmp_path.glob(".work*"))


def killed_and_resumed(program, source, folder, kills, processes, longest):
    "Kill it `kills` times at random moments of its work, then let it finish; returns how many kills hit unfinished work."
    hits, rng = 0, random.Random(kills)
    for _ in range(kills):
        process = start(program, source, folder, processes)
        while process.poll() is None and not list(folder.glob(".work-*/*.block")): time.sleep(.01)     # imports done, work begun
        time.sleep(rng.random() * longest)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill(); process.wait()
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "a helper outlived its leader"
        hits += not (folder / "manifest.json").exists()
    assert start(program, source, folder, processes).wait(180) == 0
    return hits


def test_killed_and_resumed_gives_the_same_hashes(program, source, expected, tmp_path):
    assert killed_and_resumed(program, source, tmp_path, kills=2, processes=2, longest=.1) > 0
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_many_kills(program, tmp_path):
    "A corpus of several seconds' work, killed six times in each of four rounds, on one and on two processes."
    source = write_corpus(tmp_path / "large.jsonl.gz", 80)
    prepare(PrepareConfig(data=(source,), folder=str(tmp_path / "whole"), processes=1))
    for round in range(4):
        folder = tmp_path / str(round); folder.mkdir()
        assert killed_and_resumed(program, source, folder, kills=6, processes=1 + round % 2, longest=.5) > 1
        assert contents(folder) == contents(tmp_path / "whole")


class Interrupted(Exception): pass


@pytest.mark.parametrize("step", ["make_block", "write_catalogue", "make_part", "join", "write_manifest"])
def test_interrupted_in_every_step(step, source, expected, tmp_path, monkeypatch):
    "Stopped at the beginning of any step, or after one block or part: the rest is done later, what is there is not done again."
    config, real, calls = PrepareConfig(data=(source,), folder=str(tmp_path), processes=1), getattr(preparing, step), []
    monkeypatch.setattr(preparing, "PART_BYTES", 2**21)                # several parts; how many does not show in the result

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2 or step not in ("make_block", "make_part"): raise Interrupted
        return real(*args, **kwargs)
    monkeypatch.setattr(preparing, step, stopping)
    with pytest.raises(Interrupted): prepare(config)
    monkeypatch.setattr(preparing, step, real)
    done, made, make_block = len(list(tmp_path.glob(".work-*/*.block"))), [], preparing.make_block
    monkeypatch.setattr(preparing, "make_block", lambda number, *args: made.append(number) or make_block(number, *args))
    prepare(config)
    assert contents(tmp_path) == expected
    assert done >= 1 and sorted(made) == list(range(done, len(made) + done))


@pytest.mark.parametrize("cut", [0, 1, 1000, -1])
def test_a_half_written_block_is_made_again(cut, source, expected, tmp_path, monkeypatch):
    "As after a power cut: the file is there, its end is not, or a byte of it is wrong."
    config = PrepareConfig(data=(source,), folder=str(tmp_path), processes=1)
    monkeypatch.setattr(preparing, "write_catalogue", lambda *a: (_ for _ in ()).throw(Interrupted()))
    with pytest.raises(Interrupted): prepare(config)
    monkeypatch.undo()
    block = sorted(tmp_path.glob(".work-*/*.block"))[0]
    data = bytearray(block.read_bytes())
    if cut == -1: data[len(data) // 2] ^= 1
    block.write_bytes(data if cut == -1 else data[:cut])
    prepare(config)
    assert contents(tmp_path) == expected


def test_a_full_disk_is_one_sentence_and_can_be_resumed(source, expected, tmp_path, monkeypatch):
    config, real, n = PrepareConfig(data=(source,), folder=str(tmp_path), processes=1), open, []

    def full(path, mode="r", *args, **kwargs):
        if mode == "wb" and ".block" in str(path):
            n.append(path)
            if len(n) > 2: raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *args, **kwargs)
    monkeypatch.setattr(preparing, "open", full, raising=False)
    with pytest.raises(SentnbError, match="the disk is full"): prepare(config)
    monkeypatch.undo()
    prepare(config)
    assert contents(tmp_path) == expected


def test_changed_input_is_not_mixed_with_old_work(source, tmp_path, monkeypatch):
    mine = tmp_path / "mine.jsonl"
    config = PrepareConfig(data=(write_corpus(mine, 5),), folder=str(tmp_path / "c"), processes=1)
    monkeypatch.setattr(preparing, "write_catalogue", lambda *a: (_ for _ in ()).throw(Interrupted()))
    with pytest.raises(Interrupted): prepare(config)
    monkeypatch.undo()
    write_corpus(mine, 5, seed=1)
    prepare(config)
    prepare(fresh := dataclasses.replace(config, folder=str(tmp_path / "d")))
    assert contents(config.folder) == contents(fresh.folder)


def test_split_is_fair_and_shuffle_is_a_permutation(source, tmp_path):
    manifests = [prepare(PrepareConfig(data=(source,), folder=str(tmp_path / str(s)), processes=1, seed=s, split=(8., 1., 1.))) for s in range(2)]
    documents = [[bytes(d) for split in ("train", "val", "test") for d in TokenFile.open(tmp_path / str(s), split)] for s in range(2)]
    assert sorted(documents[0]) == sorted(documents[1]) and documents[0] != documents[1]
    assert len(set(documents[0])) == len(documents[0]) == manifests[0]["counts"]["kept"]
    shares = [manifests[0]["splits"][s]["documents"] / manifests[0]["counts"]["kept"] for s in ("train", "val", "test")]
    assert np.allclose(shares, [.8, .1, .1], atol=1e-3)
    lengths = np.array([len(d) for d in documents[0]])
    assert abs(lengths[:len(lengths) // 2].mean() / lengths.mean() - 1) < .05              # long and short everywhere


def test_copies_of_held_out_texts_leave_the_training_set(tmp_path):
    texts = [f"Text number {i} of several." for i in range(300)]
    write = lambda name, some: (tmp_path / name).write_text("".join(json.dumps({"text": t}) + "\n" for t in some)) and str(tmp_path / name)
    config = PrepareConfig(data=(write("a.jsonl", texts), write("b.jsonl", texts)), val=(write("v.jsonl", [t.upper() for t in texts[:50]]),),
                           test=(write("t.jsonl", texts[40:90]),), folder=str(tmp_path / "c"), processes=1)
    counts = prepare(config)["counts"]
    splits = {s: len(TokenFile.open(config.folder, s)) for s in ("train", "val", "test")}
    assert splits == dict(train=210, val=50, test=40) and counts["copies"] == 300 + 50 + 50


def test_exact_copies_and_no_removal(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ["One.", "one", "One.", "two"]))
    kept = {how: prepare(PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / how), duplicates=how, processes=1))["counts"]["kept"]
            for how in ("near", "exact", "keep")}
    assert kept == dict(near=2, exact=3, keep=4)


def test_too_many_broken_lines_stop_the_job(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\nbad\n' * 50)
    with pytest.raises(SentnbError, match="50 of 100 records are broken, the first in line 2 of a.jsonl"):
        prepare(PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / "c"), processes=1))
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_nothing_to_train_on_is_an_error(tmp_path):
    for content in ("", '{"text": "  <br />"}\n' * 3):
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(SentnbError, match="no document is left to train on"):
            prepare(PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / "c"), processes=1))


def test_packing_makes_no_difference(tmp_path):
    "The same lines, plain, as gz and as xz, make the same corpus."
    import lzma
    lines = Path(write_corpus(tmp_path / "r.jsonl", 9)).read_bytes()
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(lines, 1)); (tmp_path / "r.jsonl.xz").write_bytes(lzma.compress(lines, preset=0))
    made = [prepare(PrepareConfig(data=(str(tmp_path / name),), folder=str(tmp_path / name[7:] / "c"), processes=1))["splits"] for name in ("r.jsonl", "r.jsonl.gz", "r.jsonl.xz")]
    assert made[0] == made[1] == made[2]


def test_legacy_and_saved_tokenizers(source, tmp_path):
    from sentnb.data.tokenizers import SentencePieceTokenizer
    tok = SentencePieceTokenizer.train([" ".join(WORDS[i:i + 50]) for i in range(400)], vocab_size=400, model_type="bpe")
    tok.save(tmp_path / "tok")
    small = write_corpus(tmp_path / "small.jsonl", 1)
    for name in ("char_legacy", str(tmp_path / "tok"), str(tmp_path / "tok" / "tokenizer.model"), "bpe"):
        folder = tmp_path / f"c{len(list(tmp_path.iterdir()))}"
        prepare(PrepareConfig(data=(small,), folder=str(folder), tokenizer=name, vocab_size=300, processes=1))
        tf = TokenFile.open(folder)
        texts = [tf.tokenizer.decode(d.astype(np.int64) + tf.tokenizer.offset) for d in list(tf)[:20]]
        assert all(t.startswith("\n ") and t.endswith(" ") for t in texts)
        assert sum(len(t.encode()) for t in texts) == sum(tf.tokenizer.byte_lengths()[d.astype(np.int64) + tf.tokenizer.offset].sum() for d in list(tf)[:20])


def peak_memory(program, source, folder, processes) -> float:
    "Peak of the summed resident memory of a run and its helpers, in MB; pages shared between them count for each."
    process, peak = start(program, source, folder, processes), 0
    leader = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for p in [leader, *leader.children(recursive=True)]:
            try: total += p.memory_full_info().uss if p is not leader else p.memory_info().rss
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied): pass
        peak = max(peak, total)
        time.sleep(.05)
    assert process.returncode == 0, process.stderr.read()
    return peak / 1e6


def test_memory_does_not_grow_with_the_corpus(program, source, tmp_path):
    "Five times the text, about the same memory; the 2 GB form of this is marked slow."
    small, large = peak_memory(program, source, tmp_path / "small", 1), peak_memory(program, write_corpus(tmp_path / "l.jsonl", 60), tmp_path / "large", 1)
    print(f"peak memory: {small:.0f} MB for 13 MB of text, {large:.0f} MB for 60 MB")
    assert large < small + 150 and large < 1000


@pytest.mark.slow
def test_two_gigabytes_in_less_than_one(program, tmp_path):
    "A corpus of 2 GB of text, built on the fly, on two processes: less than 1 GB of memory over both."
    block = Path(write_corpus(tmp_path / "block.jsonl", 50)).read_bytes()
    with gzip.open(tmp_path / "two.jsonl.gz", "wb", compresslevel=1) as f:
        for i in range(42): f.write(block.replace(b'": "', b'": "%d ' % i))        # 2.1 GB, no copies between the rounds
    peak = peak_memory(program, str(tmp_path / "two.jsonl.gz"), tmp_path / "corpus", 2)
    manifest = verify(tmp_path / "corpus")
    size = sum(s["bytes"] for s in manifest["splits"].values())
    print(f"peak memory {peak:.0f} MB for {size / 1e9:.2f} GB of text, {manifest['counts']}")
    assert size > 1.85e9 and peak < 1000
