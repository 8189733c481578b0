"Preparing real files: killed, resumed, out of disk space, bounded in memory, and without what must stay out."
import dataclasses
import errno
import gzip
import json
import lzma
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from sentnb.core import SentnbError
from sentnb.data import preparing
from sentnb.data.preparing import PrepareConfig, prepare, prepare_rows, split_sizes, summary
from sentnb.data.token_files import TokenFile, verify

WORDS = [w.decode() for w in np.random.default_rng(0).integers(97, 123, (4000, 6), np.uint8).view("S6")[:, 0]]


def write_corpus(path, megabytes, seed=0):
    "JSON lines of made-up reviews; one in ten is a copy, one in a thousand is broken."
    rng = random.Random(seed)
    size = 0
    last = "first"
    with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else open(path, "w") as f:
        while size < megabytes * 1e6:
            text = last.upper() if rng.random() < .1 else " ".join(rng.choices(WORDS, k=rng.randrange(20, 200))) + "."
            line = json.dumps({"text": text}) + "\n" if rng.random() > .001 else '{"text": \n'
            size += f.write(line)
            last = text
    return str(path)


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def contents(folder):
    "Everything a corpus is, as one string to compare."
    manifest = verify(folder)
    return json.dumps([manifest["splits"], manifest["counts"]]) + (Path(folder) / "quarantine.jsonl").read_text()


def documents(folder):
    "All documents of a corpus, training set first."
    return [bytes(d) for split in ("train", "val", "test") for d in TokenFile.open(folder, split)]


@pytest.fixture(scope="module")
def source(tmp_path_factory): return write_corpus(tmp_path_factory.mktemp("source") / "reviews.jsonl.gz", 13)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    prepare(PrepareConfig(data=(source,), folder=str(folder)))
    return contents(folder)


PROGRAM = """
import sys
from sentnb.data.preparing import PrepareConfig, prepare
prepare(PrepareConfig(data=(sys.argv[1],), folder=sys.argv[2]))
"""                                                # a plain script: no guard for `__main__` is needed


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program, source, folder):
    command = [sys.executable, program, source, folder]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def wait_for_work(process, folder):
    "Until imports are done and the first block is on disk."
    while process.poll() is None and not list(folder.glob(".work-*/*.block")): time.sleep(.01)


# What must not get in


NEIGHBORS = ["Everything about this film works, and I would see it again with pleasure.",
             "The wire transfer took a week, but the book was worth the wait.",
             "Good movie, said my sister, and for once I agree with her."]
SENTENCE = "The film is strictly routine, but its heart is in the right place."        # as in SST: it may be quoted
REVIEW = "I bought this for my nephew.\nHe has not put it down since, and neither have I: five stars!"
SHORT = "Good movie"                                                                  # too common to be searched for
PLANTED = [f"A critic wrote: '{SENTENCE}' and I could not say it better.",
           "He said it: THE FILM IS STRICTLY ROUTINE - but its heart is in the right place!!",
           REVIEW,
           REVIEW.upper().replace(":", " --").replace("!", "..."),
           "good movie!"]


def test_excluded_texts_stay_out_and_their_neighbors_do_not(tmp_path):
    "Sentences of a test set, whole or quoted, and copies of a test review, also with other case and punctuation."
    innocent = [*NEIGHBORS, SENTENCE[:40], "Not a good movie at all."]
    mixed = [text for pair in zip(PLANTED, innocent) for text in pair]
    (tmp_path / "test.csv").write_text(f'sentence,label\n"{SENTENCE}",1\n{SHORT},1\n')
    exclude = (f"{tmp_path / 'test.csv'}:sentence", write_texts(tmp_path / "reviews.jsonl", [REVIEW]))
    source = write_texts(tmp_path / "mixed.jsonl", mixed)
    config = PrepareConfig(data=(source,), folder=str(tmp_path / "c"), exclude=exclude)
    counts = prepare(config)["counts"]
    left = {d.decode().strip() for d in documents(config.folder)}
    assert left == set(innocent)
    assert counts["excluded"] == len(PLANTED) and counts["kept"] == len(left)


def test_copies_of_held_out_texts_leave_the_training_set(tmp_path):
    texts = [f"Text number {i} of several." for i in range(300)]
    config = PrepareConfig(data=(write_texts(tmp_path / "a.jsonl", texts), write_texts(tmp_path / "b.jsonl", texts)),
                           val=(write_texts(tmp_path / "v.jsonl", [t.upper() for t in texts[:50]]),),
                           test=(write_texts(tmp_path / "t.jsonl", texts[40:90]),), folder=str(tmp_path / "c"))
    counts = prepare(config)["counts"]
    splits = {s: len(TokenFile.open(config.folder, s)) for s in ("train", "val", "test")}
    assert splits == dict(train=210, val=50, test=40) and counts["copies"] == 300 + 50 + 50


@pytest.mark.parametrize("duplicates, kept", [("near", 2), ("exact", 3), ("keep", 4)])
def test_which_copies_are_dropped(tmp_path, duplicates, kept):
    source = write_texts(tmp_path / "a.jsonl", ["One.", "one", "One.", "two"])
    manifest = prepare(PrepareConfig(data=(source,), folder=str(tmp_path / "c"), duplicates=duplicates))
    assert manifest["counts"]["kept"] == kept


# Interrupted


def killed_and_resumed(program, source, folder, kills, longest):
    "Kill it at random moments of its work, then let it finish; returns how many kills hit unfinished work."
    hits = 0
    rng = random.Random(kills)
    for _ in range(kills):
        process = start(program, source, folder)
        wait_for_work(process, folder)
        time.sleep(rng.random() * longest)
        process.kill()
        process.wait()
        hits += not (folder / "manifest.json").exists()
    assert start(program, source, folder).wait(180) == 0
    return hits


def test_killed_and_resumed_gives_the_same_hashes(program, source, expected, tmp_path):
    assert killed_and_resumed(program, source, tmp_path, kills=2, longest=.1) > 0
    assert contents(tmp_path) == expected
    assert not list(tmp_path.glob(".work*"))


@pytest.mark.slow
def test_many_kills(program, tmp_path):
    "A corpus of several seconds' work, killed six times in each of four rounds."
    source = write_corpus(tmp_path / "large.jsonl.gz", 80)
    prepare(PrepareConfig(data=(source,), folder=str(tmp_path / "whole")))
    for round in range(4):
        folder = tmp_path / str(round)
        folder.mkdir()
        assert killed_and_resumed(program, source, folder, kills=6, longest=.5) > 1
        assert contents(folder) == contents(tmp_path / "whole")


def test_ctrl_c_ends_it_at_once_and_leaves_no_process(program, source, expected, tmp_path):
    process = start(program, source, tmp_path)
    wait_for_work(process, tmp_path)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    in_its_session = [p for p in psutil.process_iter() if p.is_running() and _session(p) == process.pid]
    assert not in_its_session
    assert start(program, source, tmp_path).wait(180) == 0
    assert contents(tmp_path) == expected


def _session(process):
    try: return int(Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[3])
    except OSError: return None


class Interrupted(Exception): pass


def interrupt(*args, **kwargs): raise Interrupted


STEPS = ["store_block", "mark_corpus_duplicates", "store_partition", "write_split", "write_manifest"]


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_in_every_step(step, source, expected, tmp_path, monkeypatch):
    "Stopped at the beginning of a step, or after one block or partition: what is there is not made again."
    config = PrepareConfig(data=(source,), folder=str(tmp_path))
    monkeypatch.setattr(preparing, "PARTITION_BYTES", 2**21)           # several; how many does not show in the result
    real = getattr(preparing, step)
    calls = []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2 or step not in ("store_block", "store_partition"): raise Interrupted
        return real(*args, **kwargs)
    monkeypatch.setattr(preparing, step, stopping)
    with pytest.raises(Interrupted): prepare(config)
    monkeypatch.setattr(preparing, step, real)
    done = {p.name for p in tmp_path.glob(".work-*/*") if p.suffix in (".block", ".partition")}
    made = []
    for function in ("store_block", "store_partition"):
        original = getattr(preparing, function)
        def noting(path, *args, original=original):
            made.append(path.name)
            return original(path, *args)
        monkeypatch.setattr(preparing, function, noting)
    prepare(config)
    assert contents(tmp_path) == expected
    assert done and not done & set(made)


@pytest.mark.parametrize("damage", ["empty", "one byte", "cut off", "a wrong byte"])
def test_a_damaged_block_is_made_again(damage, source, expected, tmp_path, monkeypatch):
    "As after a power cut: the file is there, its end is not, or a byte of it is wrong."
    config = PrepareConfig(data=(source,), folder=str(tmp_path))
    monkeypatch.setattr(preparing, "mark_corpus_duplicates", interrupt)
    with pytest.raises(Interrupted): prepare(config)
    monkeypatch.undo()
    block = sorted(tmp_path.glob(".work-*/*.block"))[0]
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 1
    block.write_bytes({"empty": b"", "one byte": data[:1], "cut off": data[:1000], "a wrong byte": data}[damage])
    prepare(config)
    assert contents(tmp_path) == expected


def test_a_full_disk_is_one_sentence_and_can_be_resumed(source, expected, tmp_path, monkeypatch):
    config = PrepareConfig(data=(source,), folder=str(tmp_path))
    opened = []

    def full(path, mode="r", *args, **kwargs):
        if mode == "wb" and ".block" in str(path):
            opened.append(path)
            if len(opened) > 2: raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode, *args, **kwargs)
    monkeypatch.setattr(preparing, "open", full, raising=False)
    with pytest.raises(SentnbError, match="the disk is full"): prepare(config)
    monkeypatch.undo()
    prepare(config)
    assert contents(tmp_path) == expected


def test_changed_input_is_not_mixed_with_old_work(tmp_path, monkeypatch):
    changing = tmp_path / "changing.jsonl"
    config = PrepareConfig(data=(write_corpus(changing, 5),), folder=str(tmp_path / "c"))
    monkeypatch.setattr(preparing, "mark_corpus_duplicates", interrupt)
    with pytest.raises(Interrupted): prepare(config)
    monkeypatch.undo()
    write_corpus(changing, 5, seed=1)
    prepare(config)
    fresh = dataclasses.replace(config, folder=str(tmp_path / "d"))
    prepare(fresh)
    assert contents(config.folder) == contents(fresh.folder)


# The result


def test_split_is_fair_and_shuffle_is_a_permutation(source, tmp_path):
    def make(seed):
        config = PrepareConfig(data=(source,), folder=str(tmp_path / str(seed)), seed=seed, split=(8., 1., 1.))
        return prepare(config), documents(config.folder)
    manifest, first = make(0)
    _, second = make(1)
    kept = manifest["counts"]["kept"]
    assert sorted(first) == sorted(second) and first != second
    assert len(set(first)) == len(first) == kept
    shares = [manifest["splits"][s]["documents"] / kept for s in ("train", "val", "test")]
    assert np.allclose(shares, [.8, .1, .1], atol=1e-3)
    lengths = np.array([len(d) for d in first])
    assert abs(lengths[:len(lengths) // 2].mean() / lengths.mean() - 1) < .05              # long and short everywhere


def test_compression_makes_no_difference(tmp_path):
    "The same lines, plain, as gz and as xz, make the same corpus."
    lines = Path(write_corpus(tmp_path / "r.jsonl", 9)).read_bytes()
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(lines, 1))
    (tmp_path / "r.jsonl.xz").write_bytes(lzma.compress(lines, preset=0))
    made = []
    for name in ("r.jsonl", "r.jsonl.gz", "r.jsonl.xz"):
        folder = tmp_path / name.replace(".", "_")
        made.append(prepare(PrepareConfig(data=(str(tmp_path / name),), folder=str(folder)))["splits"])
    assert made[0] == made[1] == made[2]


def test_another_encoding_is_read_when_it_is_named(tmp_path):
    "Latin-1 data read as UTF-8 stops the job and says where; named, it is read."
    (tmp_path / "a.jsonl").write_bytes('{"text": "Größe"}\n{"text": "gut"}\n'.encode("latin-1"))
    config = PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / "c"), cleaning="review")
    with pytest.raises(SentnbError, match="1 of 2 records are broken, the first in line 1"): prepare(config)
    prepare(dataclasses.replace(config, encoding="latin-1"))
    assert set(documents(config.folder)) == {"\n Größe ".encode(), b"\n gut "}


def test_too_many_broken_lines_stop_the_job(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\nbad\n' * 50)
    with pytest.raises(SentnbError, match="50 of 100 records are broken, the first in line 2 of a.jsonl"):
        prepare(PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / "c")))
    assert not (tmp_path / "c" / "manifest.json").exists()


@pytest.mark.parametrize("content", ["", '{"text": "  <br />"}\n' * 3])
def test_nothing_to_train_on_is_an_error(content, tmp_path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(SentnbError, match="no document is left to train on"):
        prepare(PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / "c"), cleaning="review"))


def test_legacy_and_saved_tokenizers(tmp_path):
    from sentnb.data.tokenizers import SentencePieceTokenizer
    sentences = [" ".join(WORDS[i:i + 50]) for i in range(400)]
    SentencePieceTokenizer.train(sentences, vocab_size=400, model_type="bpe").save(tmp_path / "tok")
    small = write_corpus(tmp_path / "small.jsonl", 1)
    names = ("char_legacy", str(tmp_path / "tok"), str(tmp_path / "tok" / "tokenizer.model"), "bpe")
    for i, name in enumerate(names):
        folder = tmp_path / f"c{i}"
        prepare(PrepareConfig(data=(small,), folder=str(folder), cleaning="review", tokenizer=name, vocab_size=300))
        file = TokenFile.open(folder)
        ids = [d.astype(np.int64) + file.tokenizer.offset for d in list(file)[:20]]
        texts = [file.tokenizer.decode(i) for i in ids]
        assert all(t.startswith("\n ") and t.endswith(" ") for t in texts)
        n_bytes = sum(file.tokenizer.byte_lengths()[i].sum() for i in ids)
        assert n_bytes == sum(len(t.encode()) for t in texts)


# Memory


def peak_memory(program, source, folder) -> float:
    "Peak resident memory of a run, in MB."
    process = start(program, source, folder)
    watched = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        try: peak = max(peak, watched.memory_info().rss)
        except psutil.Error: break
        time.sleep(.05)
    assert process.wait() == 0, process.stderr.read()
    return peak / 1e6


def test_memory_does_not_grow_with_the_corpus(program, source, tmp_path):
    "Five times the text, about the same memory; the 2 GB form of this is marked slow."
    small = peak_memory(program, source, tmp_path / "small")
    large = peak_memory(program, write_corpus(tmp_path / "l.jsonl", 60), tmp_path / "large")
    print(f"peak memory: {small:.0f} MB for 13 MB of text, {large:.0f} MB for 60 MB")
    assert large < small + 150 and large < 500


@pytest.mark.slow
def test_two_gigabytes_in_less_than_one(program, tmp_path):
    "A corpus of 2 GB of text, built on the fly: less than 1 GB of memory."
    block = Path(write_corpus(tmp_path / "block.jsonl", 50)).read_bytes()
    with gzip.open(tmp_path / "two.jsonl.gz", "wb", compresslevel=1) as f:
        for i in range(42): f.write(block.replace(b'": "', b'": "%d ' % i))     # 2.1 GB, no copies among the rounds
    peak = peak_memory(program, str(tmp_path / "two.jsonl.gz"), tmp_path / "corpus")
    manifest = verify(tmp_path / "corpus")
    size = sum(s["bytes"] for s in manifest["splits"].values())
    print(f"peak memory {peak:.0f} MB for {size / 1e9:.2f} GB of text, {manifest['counts']}")
    assert size > 1.85e9 and peak < 1000


# Plain text in any language


GERMAN = ("Es war einmal ein Müller, der hatte nichts als eine Mühle.\n\n"
          "\tDie drei Söhne teilten sich das Erbe:\n  zuletzt\n\n")
CHINESE = "从前有座山，山里有座庙。\n庙里有个老和尚，在给小和尚讲故事。\n\n"
PYTHON = Path(json.__file__).read_text() + Path(dataclasses.__file__).read_text()
LONG_TEXTS = {"müller.txt": "".join(f"{i}. {GERMAN}" for i in range(600)),
              "山.txt": "".join(f"{i}{CHINESE}" for i in range(900)),
              "program.py": PYTHON}


def decoded(folder):
    "All documents of a corpus as text."
    files = [TokenFile.open(folder, split) for split in ("train", "val", "test")]
    return [f.tokenizer.decode(d.astype(np.int64) + f.tokenizer.offset) for f in files for d in f]


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
@pytest.mark.parametrize("name", LONG_TEXTS)
def test_every_byte_of_a_text_is_in_the_corpus(tmp_path, name, tokenizer):
    "One file, cut into passages: put in order again, they are the file, newlines, tabs and indentation included."
    text = LONG_TEXTS[name]
    (tmp_path / name).write_text(text)
    manifest = prepare(PrepareConfig(data=(str(tmp_path / name),), folder=str(tmp_path / "c"), duplicates="keep",
                                     tokenizer=tokenizer, vocab_size=600))
    passages = decoded(tmp_path / "c")
    assert "".join(sorted(passages, key=text.index)) == text
    assert manifest["text"] == dict(bytes_before=len(text.encode()), bytes_after=len(text.encode()))
    assert all(manifest["splits"][s]["bytes"] > 1000 for s in ("val", "test"))


def test_a_folder_of_texts(tmp_path):
    "One document a file, or one a paragraph; hidden files and other formats stay out, broken ones are counted."
    texts = tmp_path / "texts"
    (texts / "sub").mkdir(parents=True)
    for i in range(200): (texts / "sub" / f"{i}.txt").write_text(f"Nummer {i}\n\n  eingerückt {i}\n")
    for name in (".hidden.txt", "image.png"): (texts / name).write_text("must not be read")
    def make(unit, **settings):
        return prepare(PrepareConfig(data=(str(texts),), folder=str(tmp_path / unit), text_documents=unit, **settings))
    assert make("auto")["counts"]["read"] == 200
    assert set(decoded(tmp_path / "auto")) == {f"Nummer {i}\n\n  eingerückt {i}\n" for i in range(200)}
    assert make("paragraph")["counts"]["read"] == 400
    assert {f"  eingerückt {i}\n" for i in range(200)} < set(decoded(tmp_path / "paragraph"))    # with a line end now
    (texts / "latin.txt").write_bytes("grüße".encode("latin-1"))
    assert make("file")["counts"]["broken"] == 1
    assert json.loads((tmp_path / "file" / "quarantine.jsonl").read_text())["file"] == "latin.txt"
    with pytest.raises(SentnbError, match="of 202 records are broken, the first in line 1 of image.png"):
        (texts / "image.png").write_bytes(b"\xff\xd8")
        prepare(PrepareConfig(data=(str(texts),), folder=str(tmp_path / "all"), format="text", max_bad_share=0.))


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_texts_do_not_run_into_each_other(tmp_path, tokenizer):
    "A stream reads one document after the other: without cleaning a line end stands between them, once."
    ends = ["", "\n", " ", "。"]
    texts = [f"Satz {i} über Brücken{ends[i % 4]}" for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(dict(text=text)) for text in texts))
    manifest = prepare(PrepareConfig(data=(str(tmp_path / "a.jsonl"),), folder=str(tmp_path / "c"),
                                     tokenizer=tokenizer, vocab_size=300))
    assert sorted(decoded(tmp_path / "c")) == sorted(text.removesuffix("\n") + "\n" for text in texts)
    assert manifest["text"]["bytes_after"] == sum(len(text.encode()) for text in texts)      # of the texts alone


def test_a_folder_without_data_is_one_sentence(tmp_path):
    (tmp_path / "a.log").write_text("text")
    with pytest.raises(SentnbError, match="say which format its files have"):
        prepare(PrepareConfig(data=(str(tmp_path),), folder=str(tmp_path / "c")))


def test_what_cleaning_takes_is_said(tmp_path):
    "The cleaning of reviews takes a fifth of a program; it must be asked for, and it is counted."
    (tmp_path / "program.py").write_text(PYTHON)
    config = PrepareConfig(data=(str(tmp_path / "program.py"),), folder=str(tmp_path / "c"))
    assert "Cleaning (none) kept" in summary(prepare(config)) and "(100.0%)" in summary(prepare(config))
    text = prepare(dataclasses.replace(config, folder=str(tmp_path / "d"), cleaning="review"))["text"]
    assert .5 < text["bytes_after"] / text["bytes_before"] < .9


@pytest.mark.parametrize("kilobytes, least", [(30, 500), (300, 10_000), (3000, 90_000), (30_000, 90_000)])
def test_a_small_corpus_is_not_judged_on_nothing(kilobytes, least):
    "Unless shares are asked for, validation and test get about 100 kB, or a twentieth."
    for mean in (200, 1300, 4096):
        n = kilobytes * 1000 // mean
        n_val, n_test = split_sizes(n, (), mean_bytes=mean)
        assert n_val == n_test and n_val * mean >= least - mean and n_val + n_test <= max(2, n // 10)


NAN = float("nan")
IMPOSSIBLE = [dict(split=(NAN, 1., 1.)), dict(split=(1., 1., NAN)), dict(split=(1., float("inf"), 1.)), dict(seed=-1),
              dict(max_bad_share=NAN), dict(encoding="hex"), dict(vocab_size=-1)]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_numbers_are_one_sentence(tmp_path, wrong):
    source = write_texts(tmp_path / "a.jsonl", ["eins", "zwei"])
    with pytest.raises(SentnbError):
        prepare(dataclasses.replace(PrepareConfig(data=(source,), folder=str(tmp_path / "c")), **wrong))


class Rows:
    "What `datasets.Dataset` offers as far as it matters: iteration over dicts."
    def __init__(self, rows): self.rows = rows
    def __iter__(self): return iter(self.rows)
    def __len__(self): return len(self.rows)


def test_a_data_set_in_memory(tmp_path):
    rows = Rows([dict(review=f"Satz {i}\n\t在", label=i, image=object()) for i in range(500)])
    manifest = prepare_rows(dict(train=rows, test=Rows([dict(review="gehalten")])), tmp_path, text_key="review")
    assert set(decoded(tmp_path)) == {row["review"] + "\n" for row in rows} | {"gehalten\n"}
    assert manifest["splits"]["test"]["documents"] == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_two_prepare_the_same_corpus(program, source, expected, tmp_path):
    "Three at once, in three rounds: all end well, and the corpus is whole."
    for round in range(3):
        folder = tmp_path / str(round)
        processes = [start(program, source, folder) for _ in range(3)]
        ends = [process.wait(180) for process in processes]
        assert ends == [0, 0, 0], [process.stderr.read() for process in processes]
        assert contents(folder) == expected
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
