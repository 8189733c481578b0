"""What ships with the package: models that are small, load at once, and still say what they said when they were released."""
import json, subprocess, sys, time

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
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 25e6
    def seconds():
        start = time.process_time(); LanguageModel.load(folder)
        return time.process_time() - start
    assert min(seconds() for _ in range(3)) < 1

@each
def test_card_is_read_from_its_runs(folder):
    "Each figure of the card stands in the results of the run that it names."
    card = (folder / "MODEL_CARD.md").read_text()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if "| runs/" in line and "%" in line]
    assert len(table) >= 4
    for figure, value, interval, run in table:
        assert dict(figure=figure, value=value, interval=interval) in [{k: row[k] for k in ("figure", "value", "interval")} for row in Run.open(ROOT / run).results()["table"]]

def test_classify_without_naming_a_model(tmp_path):
    said = subprocess.run([sys.executable, "-c", "import sys; from sentnb.cli import main; sys.exit(main())", "classify", "-"], input=b"An excellent film.\nA terrible film.\n", capture_output=True, timeout=120)
    assert said.returncode == 0, said.stderr.decode()
    good, bad = (json.loads(line) for line in said.stdout.splitlines())
    assert good["label"] == 1 and bad["label"] == 0
