"What files contain and are called is text in the reports of `sentnb train`, `sentnb finetune` and the experiments."
import csv
import os
import random
import subprocess
import sys

import pytest

from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.data.datasets import EMOTIONS
from sentnb.data.tokenizers import CharTokenizer
from sentnb.runs import Run
from sentnb.studies.attack import HOSTILE, Page, what_is_live
from test_house import ROOT

NAME = "<img src=x onerror=alert(1)>"     # no slash: it has to be a file's name, too
PLAIN = "<script>alert(1)</script>"       # stands whole in each text


def sentnb(folder, *args, **env):
    env = os.environ | dict(OMP_NUM_THREADS="1") | env
    env.pop("SENTNB_RUN", None)
    done = subprocess.run([sys.executable, "-m", "sentnb", *map(str, args)], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def report(folder, experiment) -> str:
    run = Run.open(folder / "runs" / experiment / "mine")
    return (run.folder / "report.html").read_text(encoding="utf-8")


def texts(n):
    rng = random.Random(0)
    words = "a film that one sees twice and then never again because of its end".split()
    for i in range(n): yield f"{PLAIN} {HOSTILE[i % len(HOSTILE)]} {' '.join(rng.sample(words, 9))}".replace("\0", "")


def test_train_shows_foreign_text_as_text(tmp_path):
    (tmp_path / f"{NAME}.txt").write_text("\n".join(texts(400)), encoding="utf-8")
    sentnb(tmp_path, "train", f"{NAME}.txt", "--minutes", .05, "--name", "mine", "-p", "hidden_size", 16)
    page = report(tmp_path, "train")
    assert what_is_live(page) == ""
    assert NAME in Page(page).text


@pytest.fixture
def small_model(tmp_path):
    LanguageModel(LMConfig(hidden_size=16, embedding_size=8, vocab_size=257), CharTokenizer()).save(tmp_path / "model")
    return tmp_path / "model"


def test_finetune_shows_foreign_text_columns_and_labels_as_text(tmp_path, small_model):
    with open(tmp_path / f"{NAME}.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([f"text {NAME}", f"label {NAME}"])
        rows.writerows((text, (PLAIN, NAME)[i % 2]) for i, text in enumerate(texts(160)))
    sentnb(tmp_path, "finetune", f"{NAME}.csv", "--text", f"text {NAME}", "--label", f"label {NAME}", "--name", "mine",
           "-p", "checkpoint", small_model, "-p", "epochs", 1., "-p", "batch_size", 16)
    page = report(tmp_path, "finetune")
    assert what_is_live(page) == ""
    visible = Page(page).text
    assert visible.count(PLAIN) >= 5 and f"{NAME}.csv" in visible      # labels, errors to look at, the file's name


# Data sets with such texts. Their files are verified by hash, so the check is taken away in the commands' processes.

UNVERIFIED = "import sentnb.data.datasets\nsentnb.data.datasets._verified = lambda path, *_: path\n"


def write_tweets(path, n):
    rng = random.Random(n)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(["ID", "Tweet", *EMOTIONS]) + "\n")
        for i, text in enumerate(texts(n)):
            labels = [str(rng.randrange(2)) for _ in EMOTIONS]
            file.write("\t".join([f"2018-En-{i}", " ".join(text.split()), *labels]) + "\n")


def write_sentences(path, n):
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "sentence"])
        rows.writerows((i % 2, " ".join(text.split())) for i, text in enumerate(texts(n)))


@pytest.fixture
def hostile_data(tmp_path):
    data = tmp_path / "data"
    for name in ("semeval", "sst"): (data / name).mkdir(parents=True)
    for part, n in dict(train=400, dev=60, test=40).items(): write_tweets(data / f"semeval/E-c-En-{part}.txt", n)
    for part, n in dict(train=90, val=60, test=50).items(): write_sentences(data / f"sst/{part}.csv", n)
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(UNVERIFIED)
    return dict(SENTNB_DATA=str(data), PYTHONPATH=os.pathsep.join([str(tmp_path / "patch"), str(ROOT)]))


ONLY_FIGURES = ("run_elmo_se_multihead", "run_elmo_sk_sst")


@pytest.mark.parametrize("experiment", ["run_se_multihead", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "run_se_singlehead", "run_sk_sst", *ONLY_FIGURES))])
def test_experiments_show_foreign_texts_and_names_as_text(experiment, tmp_path, small_model, hostile_data):
    small_model.rename(tmp_path / NAME)
    model = () if experiment in ONLY_FIGURES else ("-p", "checkpoint", tmp_path / NAME)
    sentnb(tmp_path, "run", experiment, "-f", "tiny", "--name", "mine", *model, **hostile_data)
    page = report(tmp_path, experiment)
    assert what_is_live(page) == ""
    if model: assert PLAIN in Page(page).text and NAME in Page(page).text
