"What a user's files contain and are called is text in the reports of `sentnb train` and `sentnb finetune`."
import csv
import os
import random
import subprocess
import sys

import pytest

from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.data.tokenizers import CharTokenizer
from sentnb.runs import Run
from sentnb.studies.attack import HOSTILE, Page, what_is_live

NAME = "<img src=x onerror=alert(1)>"     # no slash: it has to be a file's name, too
PLAIN = "<script>alert(1)</script>"       # stands whole in each text


def sentnb(folder, *args):
    env = os.environ | dict(OMP_NUM_THREADS="1")
    env.pop("SENTNB_RUN", None)
    done = subprocess.run([sys.executable, "-m", "sentnb", *map(str, args)], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def report(folder, experiment):
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
