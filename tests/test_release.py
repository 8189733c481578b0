"What is scored later is not read now: the corpus of a release holds no test text, whatever its case and punctuation."
import csv
import dataclasses
import json
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from sentnb.core import SentnbError, sha256_file
from sentnb.data.datasets import SOURCES, load_dataset
from sentnb.data.preparing import prepare
from sentnb.data.token_files import TokenFile
from sentnb.studies.recipe import ReleaseConfig, corpus_settings, unwanted_files

SST_TEST = "An utterly compelling journey through a landscape of grief, and back."
SST_VAL = "Too slow for its own good and too loud for anybody else's."
MR = "Neither the plot nor the acting survives the second half of this one."
IMDB_TEST = "I saw this film twice. The second time I left before the end, and nobody asked me why."
SHORT_SST_TEST = "Warm and funny."     # shorter than what is searched for inside documents

# documents that must not survive; each is planted as an Amazon review
CONTAMINATED = {
    "SST test sentence in a longer review": f"Bought it for my aunt. {SST_TEST} She agrees with the critics.",
    "in other case and punctuation": f"Says the box: “{SST_TEST.upper().replace(',', ' --')[:-1]}”!",
    "SST validation sentence": f"What they wrote is true: {SST_VAL}",
    "MR sentence": f"{MR} So I sent it back.",
    "IMDB test review": IMDB_TEST,
    "IMDB test review, shouted": IMDB_TEST.upper().replace(".", "!!"),
    "IMDB test review in a longer one": f"Somebody else put it best. {IMDB_TEST} I could not agree more.",
    "a short SST test sentence and nothing else": "warm, and FUNNY"}

# documents that look like those above and must survive
INNOCENT = {
    "another ending": SST_TEST.replace("and back", "and onward"),
    "only the beginning": "I saw this film twice. The second time I left before the end.",
    "a short test sentence inside": f"My cat is old. {SHORT_SST_TEST} He sleeps on the box that it came in.",
    "an SST training sentence": "A training sentence of the treebank, which nobody is scored on."}


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def write_csv(path, sentences):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerows([["label", "sentence"], *([i % 2, sentence] for i, sentence in enumerate(sentences))])


def allow(monkeypatch, folder, name):
    "Let `find_file` take the files of a data set in `folder` for the published ones."
    source = SOURCES[name]
    files = {split: dataclasses.replace(file, sha256=sha256_file(folder / file.path))
             for split, file in source.files.items()}
    monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, files=files))


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    "The layout of the data folder, with a few made-up texts in every file."
    folder = tmp_path / "data sets"
    planted = [dict(reviewText=text) for text in (*CONTAMINATED.values(), *INNOCENT.values())]
    products = [dict(reviewText=f"Number {i} does what it should do.", summary="Good") for i in range(120)]
    write_jsonl(folder / "amazon_reviews.jsonl.xz", planted + products)
    for split in ("train", "unsup", "test"):
        films = [dict(text=f"Film {i} of the {split} part is about a lighthouse.", label=i % 2) for i in range(20)]
        write_jsonl(folder / "imdb" / f"{split}.jsonl.xz", films + [dict(text=IMDB_TEST, label=0)] * (split == "test"))
    write_csv(folder / "sst" / "train.csv", [INNOCENT["an SST training sentence"]])
    write_csv(folder / "sst" / "val.csv", [SST_VAL])
    write_csv(folder / "sst" / "test.csv", [SST_TEST, SHORT_SST_TEST])
    write_csv(folder / "sentences" / "mr.csv", [MR])
    for name in ("amazon", "imdb", "sst", "mr"): allow(monkeypatch, folder, name)
    return folder


def corpus_texts(folder) -> list[str]:
    "All documents of a corpus of bytes, whichever split they are in."
    texts = []
    for split in ("train", "val", "test"):
        file = TokenFile.open(folder, split)
        texts += [file.tokenizer.decode(file[i].astype(np.int64) + file.tokenizer.offset) for i in range(len(file))]
    return texts


def prepared(config, folder, data_dir):
    settings = corpus_settings(config, folder, str(data_dir))
    manifest = prepare(settings)
    return manifest["counts"], "\n".join(corpus_texts(folder))


def test_no_planted_text_survives_and_innocent_ones_do(data_folder, tmp_path):
    counts, corpus = prepared(ReleaseConfig(tokenizer="char"), tmp_path / "work" / "corpus", data_folder)
    survivors = [what for what, text in CONTAMINATED.items() if text in corpus]
    missing = [what for what, text in INNOCENT.items() if text not in corpus]
    assert not survivors and not missing
    assert counts["excluded"] == len(CONTAMINATED)
    assert counts["kept"] == len(INNOCENT) + 120 + 20 + 20 and counts["copies"] == 0
    assert "Film 3 of the train part" in corpus and "Film 3 of the unsup part" in corpus
    assert "Film 3 of the test part" not in corpus


def test_without_the_guard_they_would_survive(data_folder, tmp_path):
    "The planted texts reach the corpus when nothing is excluded: cleaning and deduplication alone do not stop them."
    settings = corpus_settings(ReleaseConfig(tokenizer="char"), tmp_path / "work" / "corpus", str(data_folder))
    prepare(dataclasses.replace(settings, exclude=()))
    corpus = "\n".join(corpus_texts(settings.folder))
    absent = [what for what, text in CONTAMINATED.items() if text not in corpus]
    assert absent == ["IMDB test review, shouted"]     # a near-duplicate of the one before it


@pytest.mark.parametrize("missing", ["imdb/test.jsonl.xz", "sst/val.csv", "sst/test.csv", "sentences/mr.csv"])
def test_a_corpus_is_not_made_while_a_test_set_is_missing(data_folder, missing, tmp_path):
    (data_folder / missing).unlink()
    with pytest.raises(SentnbError, match="is not here"): unwanted_files(str(data_folder))
    with pytest.raises(SentnbError, match="is not here"):
        corpus_settings(ReleaseConfig(), tmp_path / "work" / "corpus", str(data_folder))


REAL = Path(os.environ.get("SENTNB_DATA") or "no folder")
NEEDED = [REAL / file.path for name in ("imdb", "sst", "mr") for file in SOURCES[name].files.values()]


@pytest.mark.skipif(not all(path.is_file() for path in NEEDED), reason="the data sets are not in SENTNB_DATA")
def test_real_test_texts_do_not_survive_either(tmp_path):
    "Real sentences and reviews, planted among real reviews."
    sentence = max(load_dataset("sst", REAL)["test"].texts, key=len)
    review = min(load_dataset("imdb", REAL)["test"].texts, key=len)
    innocent = [f"Delivery took {n} days, and the dog ate the box that it came in." for n in range(30)]
    planted = [f"First of all: {sentence.upper()}! Then it broke.", review.lower().replace(",", " -"), sentence]
    work = tmp_path / "work"
    work.mkdir()
    lines = [json.dumps(dict(text=text)) + "\n" for text in planted + innocent]
    (work / "reviews.jsonl").write_text("".join(lines))     # what `gather` finds it does not gather again
    counts, corpus = prepared(ReleaseConfig(tokenizer="char"), work / "corpus", REAL)
    assert counts["excluded"] == len(planted) and counts["kept"] == len(innocent)
    assert sentence.lower() not in corpus.lower() and all(text in corpus for text in innocent)
