"""The models that ship with the package are small, load at once, and predict what they did when they were released."""
import json
import subprocess
import sys
import time

import pytest
from sentnb.models.lm import LanguageModel, find_model, released_folder
from sentnb.runs import Run
from sentnb.studies.release import check_golden
from test_house import ROOT

RELEASED = sorted(f.parent for f in released_folder().glob("*/config.json"))
each = pytest.mark.parametrize("folder", RELEASED, ids=lambda f: f.name)

def test_a_model_ships():
    assert find_model() in RELEASED
    assert LanguageModel.load().fingerprint == LanguageModel.load(find_model().name).fingerprint

@each
def test_golden_predictions(folder):
    assert check_golden(folder) == []

@each
def test_small_and_quick(folder):
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 40e6
    def seconds():
        start = time.process_time()
        LanguageModel.load(folder)
        return time.process_time() - start
    assert min(seconds() for _ in range(3)) < 1

@each
def test_card_is_read_from_its_runs(folder):
    "Each figure of the card stands in the results of the run that it names."
    card = (folder / "MODEL_CARD.md").read_text()
    lines = [line for line in card.splitlines() if "| runs/" in line and "%" in line]
    assert len(lines) >= 4
    for line in lines:
        figure, value, interval, run = (cell.strip() for cell in line.strip("|").split("|"))
        results = Run.open(ROOT / run).results()["table"]
        assert (figure, value, interval) in [(row["figure"], row["value"], row["interval"]) for row in results]

def test_classify_without_naming_a_model(tmp_path):
    command = [sys.executable, "-c", "import sys; from sentnb.cli import main; sys.exit(main())", "classify", "-"]
    texts = b"An excellent film.\nA terrible film.\n"
    said = subprocess.run(command, input=texts, capture_output=True, timeout=120)
    assert said.returncode == 0, said.stderr.decode()
    good, bad = (json.loads(line) for line in said.stdout.splitlines())
    assert good["sentnb_label"] == 1 and bad["sentnb_label"] == 0
