"The training notebooks: their parameters cells list exactly the fields of their settings, and the small settings run."
import dataclasses
from pathlib import Path

import pytest

from sentnb.core import from_dict, read_yaml
from sentnb.data.preparing import PrepareConfig
from sentnb.execute import declared, run_notebook
from sentnb.studies.comparisons import ComparePrecisionConfig, ScaleConfig
from sentnb.studies.recipe import ReleaseConfig
from sentnb.studies.train import TrainConfig
from sentnb.studies.training_runs import ExperimentConfig

FOLDER = Path(__file__).parents[1]/"nbs"/"experiments"
SETTINGS = dict(
    train_mlstm_singlenode=ExperimentConfig,
    train_transformer_singlenode=ExperimentConfig,
    compare_precision=ComparePrecisionConfig,
    scale_data_parallel=ScaleConfig,
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
