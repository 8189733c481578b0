"Models by their names on the hub, from a cache laid out as huggingface_hub does it; data sets of the real library."
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sentnb.core import NotAvailableError, SentnbError
from sentnb.data.hub import as_split
from sentnb.models.lm import LanguageModel, released_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """import sys
from sentnb.core import SentnbError
from sentnb.models.lm import LanguageModel
try: print(LanguageModel.load(sys.argv[1]).fingerprint)
except SentnbError as error: print(type(error).__name__, error)"""


@pytest.fixture(scope="module")
def shipped() -> Path:
    return next(released_folder().glob("*/config.json")).parent


def cache_of(folder: Path, shipped: Path, name: str) -> Path:
    "Blobs, a snapshot of links to them, and a branch: what downloading leaves."
    repository = folder / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in shipped.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.name.encode()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return folder


def load(name: str, cache: Path) -> str:
    "What a new Python without a network says about a model: the hub's settings are read once, at import."
    env = os.environ | dict(HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", LOAD, name], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_model_is_loaded_from_the_hubs_cache(shipped, tmp_path):
    pytest.importorskip("huggingface_hub")
    cache = cache_of(tmp_path, shipped, "someone/reviews")
    assert load("hf://someone/reviews", cache) == LanguageModel.load(shipped).fingerprint


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    pytest.importorskip("huggingface_hub")
    said = load("hf://someone/nothing@v1", tmp_path)
    assert said.startswith("NotAvailableError hf://someone/nothing@v1 cannot be had from the hub: ")
    assert "\n" not in said


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NotAvailableError, match=r"pip install 'sentnb\[hub\]'"): LanguageModel.load("hf://a/b")


def test_the_card_has_its_front_matter(shipped):
    text = (shipped / "MODEL_CARD.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["license"], facts["library_name"]) == ("apache-2.0", "sentnb")
    assert "sentiment-neuron" in facts["tags"]
    assert body.lstrip().startswith(f"# {shipped.name}\n")
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard(text).data.license == "apache-2.0"


def test_a_data_set_is_read_as_texts_and_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(review=datasets.Value("string"), stars=datasets.ClassLabel(names=["bad", "good"]))
    rows = datasets.Dataset.from_dict(dict(review=["dull", "warm ✓", "dull"], stars=[0, 1, 0]), features=features)
    split = as_split(rows, "review", "stars")
    assert split.texts == ["dull", "warm ✓", "dull"] and split.labels.tolist() == [0, 1, 0]
    with pytest.raises(SentnbError, match="choose text_key from review, stars"): as_split(rows)
    with pytest.raises(SentnbError, match=r"pass one of them, such as dataset\['train'\]"):
        as_split(datasets.DatasetDict(train=rows))
    assert as_split(rows.select_columns("review"), "review").labels is None


def test_a_data_set_becomes_features_verdicts_and_a_corpus(shipped, tmp_path):
    "A column is taken wherever texts are."
    datasets = pytest.importorskip("datasets")
    from sentnb.data.preparing import prepare_rows
    from sentnb.tasks.classify import classify, load_classifier
    rows = datasets.Dataset.from_dict(dict(text=["A joy.", "Dull.", "A waste of time."]))
    clf = load_classifier()
    assert np.array_equal(clf.lm.featurize(rows["text"]), clf.lm.featurize(as_split(rows).texts))
    assert [verdict.text for verdict in classify(clf, rows["text"])] == list(rows["text"])
    manifest = prepare_rows(datasets.DatasetDict(train=rows, validation=rows.select([0])), tmp_path / "corpus")
    assert manifest["splits"]["val"]["documents"] == 1 and manifest["splits"]["train"]["documents"] == 2
