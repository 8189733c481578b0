"The experiments: their parameters cells are the fields of their settings, small settings run, foreign text is text."
import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sentnb.core import from_dict, read_yaml
from sentnb.data.datasets import Split
from sentnb.data.preparing import PrepareConfig
from sentnb.data.tokenizers import CharTokenizer
from sentnb.execute import declared, run_notebook
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.runs import Run
from sentnb.studies import transfer_reports as reports
from sentnb.studies.recipe import ReleaseConfig
from sentnb.studies.train import TrainConfig
from sentnb.studies.training_runs import ExperimentConfig
from sentnb.viz.report import write_report

FOLDER = Path(__file__).parents[1]/"nbs"/"experiments"
SETTINGS = dict(
    train_mlstm_singlenode=ExperimentConfig,
    train_transformer_singlenode=ExperimentConfig,
    release_model=ReleaseConfig,
    prepare_corpus=PrepareConfig,
    train=TrainConfig)
WITH_OTHER_DEFAULTS = ("train_transformer_singlenode", "prepare_corpus")   # another model; empty data and folder


def cell_values(name) -> dict:
    "The parameters cell of a notebook: name -> default."
    return {p.name: p.default for p in declared(FOLDER/f"{name}.ipynb").values()}


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_the_fields(name):
    cell, cls = cell_values(name), SETTINGS[name]
    assert list(cell) == [f.name for f in dataclasses.fields(cls)]
    config = from_dict(cls, cell)
    if name not in WITH_OTHER_DEFAULTS: assert config == cls()


PARAMETER_FILES = [path for path in sorted(FOLDER.glob("params/*.yaml")) if path.name.split(".")[0] in SETTINGS]


@pytest.mark.parametrize("path", PARAMETER_FILES, ids=lambda path: path.stem)
def test_parameter_files_fit(path):
    "Every name in them is a setting; the file of a published run says what the notebook's defaults say."
    name, kind = path.stem.split(".")
    cls, cell = SETTINGS[name], cell_values(name)
    config = from_dict(cls, cell | read_yaml(path))
    assert (config == from_dict(cls, cell)) == (kind == "paper")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_mlstm_singlenode", "train_transformer_singlenode"])
def test_small_settings_run(name, tmp_path, monkeypatch):
    "The file that a user would pass, with fewer steps."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = read_yaml(FOLDER/"params"/f"{name}.cpu_small.yaml")
    fewer = dict(steps=12, eval_every=6, log_every=3, save_every=0, warmup=0, documents=300)
    run = run_notebook(str(FOLDER/f"{name}.ipynb"), small | fewer, "small")
    assert run.state == "finished" and run.results()["training"]["steps"] == 12
    assert (run.folder/"report.html").exists()
    assert str(tmp_path) not in (run.folder/"notebook.ipynb").read_text()


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</textarea>", "a<br />b")
SECTIONS = ("benchmark", "transfer", "ranking", "neuron", "sweep", "left_out", "label", "baseline", "breakdown",
            "example", "classifier")


class Page(HTMLParser):
    "Elements, names of attributes and text of some HTML, as a browser reads them."
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.attributes = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data): self.text += data


def planted_report(home: Path) -> reports.TransferReport:
    "A report on hostile sentences with a hostile title, by a model whose folder has a hostile name."
    checkpoint = home / HOSTILE[1]
    LanguageModel(LMConfig(hidden_size=8, embedding_size=4), CharTokenizer()).save(checkpoint)
    labels = np.arange(40) % 2
    parts = {}
    for part in ("train", "val", "test"):
        texts = [f"{part} {i}: {'good' if label else 'bad'} {' '.join(HOSTILE)}" for i, label in enumerate(labels)]
        parts[part] = Split(texts, labels)
    config = reports.TransferConfig(checkpoint=str(checkpoint), cache="", label_seeds=1, device="cpu")
    texts = reports.Benchmark("sst", f"SST {' '.join(HOSTILE)}", parts, {})
    return reports.TransferReport(config, Run.create("run_sk_sst", root=home / "runs"), texts)


def as_cell(shown: list):
    "A cell that displayed these objects."
    format = DisplayFormatter().format
    outputs = [new_output("display_data", data, metadata=metadata) for data, metadata in map(format, shown)]
    return new_code_cell("shown", outputs=outputs)


def test_a_transfer_report_shows_foreign_text_as_text(tmp_path):
    report = planted_report(tmp_path)
    cells = [as_cell(getattr(reports, f"{name}_section")(report)) for name in SECTIONS]
    cells.append(as_cell(reports.cost_section(report, 1.)))
    report.run.save_result("summary", reports.summary_sentences(report))

    given = [output.data.get("text/html", "") for cell in cells for output in cell.outputs]
    for html in given:                                  # already harmless before the report cleans it
        read = Page(html)
        assert not {"script", "textarea", "br"} & set(read.tags) and "onerror" not in read.attributes

    notebook = report.run.folder / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Report"), *cells]), notebook)
    page = Page(write_report(notebook).read_text())
    assert page.tags.count("script") == 1               # that of the heat maps
    assert not {"textarea", "br"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    for text in HOSTILE: assert page.text.count(text) >= 10     # in the examples, the title and the summary
    assert page.text.count(f"{HOSTILE[1]}, 8 units") == 2       # the model's name, in the heading and in the summary


def test_every_experiment_says_what_it_found():
    for path in FOLDER.glob("*.ipynb"):
        sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert any('save_result("summary"' in source for source in sources), path.name
        assert not [source for source in sources if ".style" in source], path.name
