"The whole quickstart with tiny settings, through the command that users type, and what it leaves behind."
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sentnb.core import from_dict, read_yaml
from sentnb.data.token_files import TokenFile
from sentnb.data.tokenizers import CharTokenizer
from sentnb.execute import declared, find_notebook, parameter_file
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.runs import Run
from sentnb.studies.quickstart import QuickstartConfig, cleaned, quickstart_texts

SENTENCE = "A café so \"fine\" (they said): <b>dull</b>!"


def sentnb(*args, cwd):
    "The command line, in a folder that is no checkout."
    command = [sys.executable, "-c", "import sys; from sentnb.cli import main; sys.exit(main(sys.argv[1:]))", *args]
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, env=environment)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    "One tiny run with a second model beside it, shared by the tests below."
    home = tmp_path_factory.mktemp("somewhere")
    LanguageModel(LMConfig(hidden_size=12, embedding_size=4), CharTokenizer()).save(home / "other")
    parameters = ("-f", "tiny", "-p", "sentence", SENTENCE, "-p", "checkpoint", "other")
    done = sentnb("run", "quickstart", *parameters, "--name", "tiny", cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run.open(home / "runs" / "quickstart" / "tiny"), done


def test_the_parameters_cell_lists_exactly_the_fields():
    parameters = {name: p.default for name, p in declared(find_notebook("quickstart")).items()}
    fields = {f.name: f.default for f in dataclasses.fields(QuickstartConfig)}
    assert list(parameters.items()) == list(fields.items())
    tiny = read_yaml(parameter_file(find_notebook("quickstart"), "tiny"))
    assert from_dict(QuickstartConfig, tiny) != QuickstartConfig()


def test_the_run_folder_is_complete(quickstart):
    run, _ = quickstart
    files = ("params.yaml", "env.json", "metrics.jsonl", "status.json", "results.json", "notebook.ipynb", "report.html")
    for name in files: assert (run.folder / name).stat().st_size > 0, name
    assert run.state == "finished" and run.params()["sentence"] == SENTENCE
    metrics = run.metrics()
    assert {"train", "val"} <= set(metrics.split) and metrics.bits_per_character.notna().all()
    assert run.status["step"] == metrics.step.max() > 0
    assert metrics[metrics.split == "train"].step.is_monotonic_increasing
    for name in ("notebook.ipynb", "report.html"): assert (run.folder / name).stat().st_size < 1_000_000


def test_the_figures_agree_with_each_other(quickstart):
    run, done = quickstart
    results = run.results()
    rows = {row[""]: row for row in results["table"]}
    for name, bits in results["bits_per_character"].items(): assert rows[name]["bits per character"] == f"{bits:.3f}"
    for name in ("bz2", "xz", "zstd", "order-4 byte counts", "bag of words", "majority"): assert name in rows
    ours, other = list(results["bits_per_character"])[:2]
    assert "16 units, trained here" in ours and other == "other, 12 units"
    assert other in results["sentiment"] and other in results["probes"]
    sentiment = results["sentiment"][ours]
    assert rows[ours]["sentiment accuracy (%)"] == f"{100 * sentiment['accuracy']:.1f}"
    assert rows[ours]["best unit alone (%)"] == f"{100 * sentiment['neuron_accuracy']:.1f}"
    assert all(name in done.stdout for name in rows) and "report: runs/quickstart/tiny/report.html" in done.stdout
    assert {p["property"] for p in results["probes"][ours]} >= {"capital letter", "letters so far in the word"}


def test_the_report_shows_the_readers_sentence_and_needs_no_network(quickstart):
    run, _ = quickstart
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page and page.count("data:image/png;base64,") >= 5
    assert len(re.findall(r"<div class=\"?heat", page)) >= 6
    section = page.split("8. Your own sentence")[1]
    colored = re.split(r"<div[^>]* class=\"?text[^>]*>", section)[1].split("</div>")[0]
    assert colored.count("<span") == len(SENTENCE.encode())


def test_the_verdict_on_the_neuron_follows_from_its_interval(quickstart):
    run, _ = quickstart
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    sentiment = run.results()["sentiment"]
    for model in ("mLSTM of 16 units, trained here", "other, 12 units"):
        low, _ = sentiment[model]["neuron_interval"]
        assert low < .7     # no model this small has one
        verdict = "is no sentiment neuron" if low <= sentiment["majority"] else "is not yet a sentiment neuron"
        paragraph = re.search(rf"<em>{model}\.</em>.*?decides alone.*?</p>", page, re.S)[0]
        assert verdict in paragraph


def test_no_complaint_and_no_folder_of_this_machine(quickstart):
    run, done = quickstart
    notebook = nbformat.read(run.folder / "notebook.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert len(outputs) > 20 and "Warning" not in done.stdout + done.stderr
    for name in ("notebook.ipynb", "report.html", "results.json", "metrics.jsonl", "env.json", "params.yaml"):
        text = (run.folder / name).read_text(encoding="utf-8")
        assert str(run.folder.parents[2]) not in text and str(Path.home()) + "/" not in text, name


def test_nothing_is_scored_that_was_trained_on(quickstart):
    run, _ = quickstart
    sizes = {row["part"]: row["documents"] for row in run.results()["texts"]}
    assert sizes["reviews: train"] == 40 and sizes["reviews: heldout"] == 12
    assert json.loads((run.folder / "data" / "manifest.json").read_text())["splits"]["train"]["documents"] == 40

    reviews, sentences = quickstart_texts(from_dict(QuickstartConfig, run.params()))
    file = TokenFile.open(run.folder / "data")
    corpus = [file.tokenizer.decode(file[i].astype(int) + file.tokenizer.offset).strip() for i in range(len(file))]
    assert set(corpus) == set(cleaned(reviews["train"]).texts)
    scored = (reviews["heldout"], *sentences.values())
    assert not set(corpus) & {text for split in scored for text in cleaned(split).texts}


@pytest.mark.parametrize("parameter, value, message", [
    ("hiden_size", "8", "unknown parameter 'hiden_size' (did you mean 'hidden_size'?)"),
    ("hidden_size", "big", "parameter 'hidden_size' must be int"),
    ("checkpoint", "no/such/folder", "there is no model 'no/such/folder'"),
    ("train_documents", "90000", "documents are asked for"),
])
def test_mistakes_end_with_one_sentence_before_training(tmp_path, parameter, value, message):
    done = sentnb("run", "quickstart", "-f", "tiny", "-p", parameter, value, "--name", "wrong", cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("sentnb: ") and done.stderr.strip().count("\n") == 0
    run = tmp_path / "runs" / "quickstart" / "wrong"
    assert not (run / "metrics.jsonl").exists() and (not run.exists() or Run.open(run).state == "failed")
