"The training notebooks: their parameters cells list exactly the fields of their settings, and the small settings run."
import dataclasses
from pathlib import Path

import pytest
from sentnb.core import from_dict, read_yaml
from sentnb.execute import declared, run_notebook
from sentnb.studies.training_runs import ComparePrecisionConfig, ExperimentConfig, ScaleConfig

FOLDER = Path(__file__).parents[1]/"nbs"/"experiments"
SETTINGS = dict(train_mlstm_singlenode=ExperimentConfig, train_transformer_singlenode=ExperimentConfig,
                compare_precision=ComparePrecisionConfig, scale_data_parallel=ScaleConfig)

@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_the_fields(name):
    cell, cls = declared(FOLDER/f"{name}.ipynb"), SETTINGS[name]
    assert list(cell) == [f.name for f in dataclasses.fields(cls)]
    config = from_dict(cls, {p.name: p.default for p in cell.values()})
    if "transformer" not in name: assert config == cls()

@pytest.mark.parametrize("path", sorted(FOLDER.glob("params/train_*.yaml")), ids=lambda p: p.stem)
def test_parameter_files_fit(path):
    "Every name in them is a setting; the file of the published run says what the notebook's defaults say."
    cell = {p.name: p.default for p in declared(FOLDER/f"{path.name.split('.')[0]}.ipynb").values()}
    values = read_yaml(path)
    config = from_dict(ExperimentConfig, cell | values)
    if path.stem.endswith(".paper"): assert config == from_dict(ExperimentConfig, cell)

@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_mlstm_singlenode", "train_transformer_singlenode"])
def test_small_settings_run(name, tmp_path, monkeypatch):
    "The same file as a user would pass, with fewer steps."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = read_yaml(FOLDER/"params"/f"{name}.cpu_small.yaml")
    run = run_notebook(str(FOLDER/f"{name}.ipynb"), small | dict(steps=12, eval_every=6, log_every=3, save_every=0, warmup=0, documents=300), "small")
    assert run.state == "finished" and run.results()["training"]["steps"] == 12
    assert (run.folder/"report.html").exists() and str(tmp_path) not in (run.folder/"notebook.ipynb").read_text()
