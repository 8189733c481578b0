"The whole quickstart with tiny settings, through the command that users type, and what it leaves behind."
import dataclasses
import html
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from sentnb.core import from_dict, read_yaml
from sentnb.data.token_files import TokenFile
from sentnb.data.tokenizers import CharTokenizer
from sentnb.execute import declared, find_notebook, parameter_file
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.runs import Run
from sentnb.studies.attack import Page, what_is_live
from sentnb.studies.quickstart import GIVEN, QuickstartConfig, cleaned, quickstart_texts
from sentnb.tasks.classify import load_classifier, save_classifier
from sentnb.tasks.neurons import Neuron, choose_neuron
from sentnb.tasks.regression import LinearClassifier, make_examples

SENTENCE = "A café so \"fine\" (they said): <b>dull</b>! <script>alert(1)</script><img src=x onerror=alert(1)>"
SMALL = "mLSTM of 16 units, trained here"
FOLDER = "other <img src=x onerror=alert(2)> & model"
OTHER = f"{FOLDER}, 12 units"
NEURON = Neuron(unit=3, sign=-1, mean=.01, std=.02, threshold=.1)


def command(*args):
    return [sys.executable, "-c", "import sys; from sentnb.cli import main; sys.exit(main(sys.argv[1:]))", *args]


ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS="1")


def sentnb(*args, cwd):
    "The command line, in a folder that is no checkout."
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, timeout=500, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    "One tiny run in which another model plays the first part; the report as it stood after that part."
    home = tmp_path_factory.mktemp("somewhere")
    torch.manual_seed(0)
    lm = LanguageModel(LMConfig(hidden_size=12, embedding_size=4), CharTokenizer())
    classifier = LinearClassifier(np.eye(12)[[3]], np.zeros(1), [0, 1], False)
    save_classifier(home / FOLDER, lm, classifier, NEURON)
    parameters = ("-f", "tiny", "-p", "sentence", SENTENCE, "-p", "checkpoint", FOLDER)
    arguments = command("run", "quickstart", *parameters, "--name", "tiny")
    process = subprocess.Popen(arguments, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=ENVIRONMENT)
    folder = home / "runs" / "quickstart" / "tiny"
    early = _when_it_appears(folder / "report.html", process)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    return Run.open(folder), printed, early


def _when_it_appears(report, process):
    "The report as soon as it is there, and the state of the run at that moment."
    while not report.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(.05)
    return report.read_text(encoding="utf-8"), Run.open(report.parent).state


def test_the_parameters_cell_lists_exactly_the_fields():
    parameters = {name: p.default for name, p in declared(find_notebook("quickstart")).items()}
    fields = {f.name: f.default for f in dataclasses.fields(QuickstartConfig)}
    assert list(parameters.items()) == list(fields.items())
    tiny = read_yaml(parameter_file(find_notebook("quickstart"), "tiny"))
    assert from_dict(QuickstartConfig, tiny) != QuickstartConfig()


def test_the_first_part_is_a_report_before_training(quickstart):
    _, printed, (page, state) = quickstart
    assert state == "running"
    assert "4. Units with simpler jobs" in page and "is under way" in page
    assert "5. A small model is trained" not in page and "held down, −5" in page
    written = printed.index("the first part is written: runs/quickstart/tiny/report.html")
    assert written < printed.index("training:")


def test_the_run_folder_is_complete(quickstart):
    run, *_ = quickstart
    files = ("params.yaml", "env.json", "metrics.jsonl", "status.json", "results.json", "notebook.ipynb", "report.html")
    for name in files: assert (run.folder / name).stat().st_size > 0, name
    assert [path.name for path in run.folder.glob("*.ipynb")] == ["notebook.ipynb"]
    assert run.state == "finished" and run.params()["sentence"] == SENTENCE
    metrics = run.metrics()
    assert {"train", "val"} <= set(metrics.split) and metrics.bits_per_character.notna().all()
    assert run.status["step"] == metrics.step.max() > 0
    assert metrics[metrics.split == "train"].step.is_monotonic_increasing
    for name in ("notebook.ipynb", "report.html"): assert (run.folder / name).stat().st_size < 1_000_000


def test_the_figures_agree_with_each_other(quickstart):
    run, printed, _ = quickstart
    results = run.results()
    rows = {row[""]: row for row in results["table"]}
    for name, bits in results["bits_per_character"].items(): assert rows[name]["bits per character"] == f"{bits:.3f}"
    for name in ("bz2", "xz", "order-4 byte counts", "bag of words", "majority"): assert name in rows
    assert list(results["bits_per_character"])[:2] == [SMALL, OTHER]
    for name in (SMALL, OTHER): assert rows[name]["AUC of its neuron alone"] == f"{results['neuron'][name]['auc']:.2f}"
    assert rows[SMALL]["sentiment accuracy (%)"] == f"{100 * results['sentiment'][SMALL]['accuracy']:.1f}"
    assert all(name in printed for name in rows) and "report: runs/quickstart/tiny/report.html" in printed
    assert {p["property"] for p in results["probes"][SMALL]} >= {"capital letter", "letters so far in the word"}
    assert results["cost"]["seconds_of_part_one"] < results["cost"]["seconds"]


def test_the_shipped_neuron_is_taken_and_the_small_one_chosen_by_the_one_rule(quickstart):
    run, *_ = quickstart
    neurons = run.results()["neuron"]
    assert from_dict(Neuron, {f.name: neurons[OTHER][f.name] for f in dataclasses.fields(Neuron)}) == NEURON
    train = quickstart_texts(from_dict(QuickstartConfig, run.params()))["train"]
    X = LanguageModel.load(run.checkpoint_folder).featurize(train.texts)
    n = len(train) * 2 // 3
    choice = choose_neuron(make_examples(X[:n], train.labels[:n]), make_examples(X[n:], train.labels[n:]))
    assert neurons[SMALL]["unit"] == choice.neuron.unit and neurons[SMALL]["sign"] == choice.neuron.sign
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert ("The two rules disagree" in page) != choice.agree


def texts_of_heat_maps(page):
    "What is colored, without the colors."
    drawn = re.findall(r'<div[^>]* data-heat.*?<pre[^>]*>(.*?)</pre>', page, re.S)
    return [html.unescape(re.sub("<[^>]*>", "", runs)) for runs in drawn]


def test_the_report_shows_the_readers_sentence_and_needs_no_network(quickstart):
    run, *_ = quickstart
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page and page.count("data:image/png;base64,") >= 5
    shown = texts_of_heat_maps(page)
    assert len(shown) >= 6 and shown.count(SENTENCE) == 2      # read by each model
    assert not set(GIVEN) & set(shown)


def test_foreign_names_and_texts_are_shown_as_text(quickstart):
    "The reader's sentence and the name of the model's folder, in the report and in the notebook's own outputs."
    run, _, early = quickstart
    for page in (early[0], (run.folder / "report.html").read_text(encoding="utf-8")):
        assert what_is_live(page) == ""
        visible = Page(page).text
        assert FOLDER in visible and "<img src=x onerror=alert(1)>" in visible
    outputs = [o for cell in nbformat.read(run.folder / "notebook.ipynb", 4).cells for o in cell.get("outputs", [])]
    shown = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert shown and "<img src=x" not in shown and "<script>alert" not in shown
    prose = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert "<script>alert" not in prose and "<img src=x" not in prose


def test_the_summary_says_what_was_found(quickstart):
    run, *_ = quickstart
    results = run.results()
    first, second, third = results["summary"]
    assert first.startswith(OTHER) and f"Unit {NEURON.unit} (sign turned)" in first
    assert third.startswith(SMALL) and f"AUC of {results['neuron'][SMALL]['auc']:.2f}" in third
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert page.index('class="summary"') < page.index("1. One unit reads") and "is under way" not in page


def test_the_verdict_on_a_neuron_follows_from_its_interval(quickstart):
    run, *_ = quickstart
    for sentence, name in zip(run.results()["summary"][::2], (OTHER, SMALL)):
        low, _ = run.results()["neuron"][name]["auc_interval"]
        said = "is a sentiment" if low >= .7 else "is not yet a sentiment" if low > .5 else "is no sentiment"
        assert said in sentence


def test_no_complaint_and_no_folder_of_this_machine(quickstart):
    run, printed, _ = quickstart
    notebook = nbformat.read(run.folder / "notebook.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert len(outputs) > 20 and "Warning" not in printed
    for name in ("notebook.ipynb", "report.html", "results.json", "metrics.jsonl", "env.json", "params.yaml"):
        text = (run.folder / name).read_text(encoding="utf-8")
        assert str(run.folder.parents[2]) not in text and str(Path.home()) + "/" not in text, name


def test_nothing_is_scored_that_was_trained_on(quickstart):
    run, *_ = quickstart
    sizes = {row["part"]: row["documents"] for row in run.results()["texts"]}
    assert sizes == {"reviews: train": 60, "reviews: curve": 8, "reviews: heldout": 40}
    assert json.loads((run.folder / "data" / "manifest.json").read_text())["splits"]["train"]["documents"] == 60

    reviews = quickstart_texts(from_dict(QuickstartConfig, run.params()))
    file = TokenFile.open(run.folder / "data")
    corpus = [file.tokenizer.decode(file[i].astype(int) + file.tokenizer.offset).strip() for i in range(len(file))]
    assert set(corpus) == set(cleaned(reviews["train"]).texts)
    assert not set(corpus) & set(cleaned(reviews["heldout"]).texts)


def test_without_a_name_the_model_that_ships_plays_the_first_part(tmp_path):
    done = sentnb("run", "quickstart", "-f", "tiny", "--name", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.open(tmp_path / "runs" / "quickstart" / "x")
    shipped = load_classifier()
    results = run.results()
    name, = set(results["neuron"]) - {SMALL}
    assert results["neuron"][name]["unit"] == shipped.neuron.unit
    down, up = zip(*[pair.values() for pair in results["clamped"][name]])
    prompt = run.params()["prompt"]
    assert len(set(down + up)) == 6 and all(text.startswith(prompt) for text in down + up)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert set(GIVEN) <= set(texts_of_heat_maps(page))


@pytest.mark.parametrize("parameter, value, message", [
    ("checkpoint", "no/such/folder", "there is no model 'no/such/folder'"),
    ("train_documents", "90000", "documents are asked for"),
])
def test_mistakes_end_with_one_sentence_before_training(tmp_path, parameter, value, message):
    done = sentnb("run", "quickstart", "-f", "tiny", "-p", parameter, value, "--name", "wrong", cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("sentnb: ") and done.stderr.strip().count("\n") == 0
    run = tmp_path / "runs" / "quickstart" / "wrong"
    assert not (run / "metrics.jsonl").exists() and (not run.exists() or Run.open(run).state == "failed")
