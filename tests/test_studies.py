"The analyses: parameters cells are settings, rehearsals run from top to bottom, two nodes end as one."
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sentnb.core import from_dict, read_yaml
from sentnb.execute import declared, run_notebook
from sentnb.runs import Run
from sentnb.studies import cost_model
from sentnb.studies.batch_sizes import BatchSizesConfig, range_confidence
from sentnb.studies.bits_table import BitsConfig
from sentnb.studies.comparisons import ScaleConfig
from sentnb.studies.nodes import node_training, rehearse_beside_one
from sentnb.studies.precisions import ComparePrecisionConfig, interval_of_mean
from sentnb.studies.sizes import SizesConfig, fit_power_law

FOLDER = Path(__file__).parents[1]/"nbs"/"experiments"
SETTINGS = dict(
    compare_sizes=SizesConfig,
    compare_batch_sizes=BatchSizesConfig,
    compare_precision=ComparePrecisionConfig,
    scale_data_parallel=ScaleConfig,
    bpc_comparison=BitsConfig)


def defaults(name) -> dict:
    "The parameters cell of a notebook: name -> default."
    return {p.name: p.default for p in declared(FOLDER/f"{name}.ipynb").values()}


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_the_fields(name):
    cell, cls = defaults(name), SETTINGS[name]
    assert list(cell) == [f.name for f in dataclasses.fields(cls)]
    assert from_dict(cls, cell) == cls()


@pytest.mark.parametrize("path", [p for p in sorted(FOLDER.glob("params/*.yaml")) if p.name.split(".")[0] in SETTINGS],
                         ids=lambda path: path.stem)
def test_parameter_files_fit(path):
    name = path.name.split(".")[0]
    config = from_dict(SETTINGS[name], defaults(name) | read_yaml(path))
    assert config != SETTINGS[name]()


@pytest.mark.parametrize("gpus", [(8, 16), (8, 16, 32), (8, 16, 32, 64)])
def test_the_cost_model_predicts_points_that_it_has_not_seen(gpus):
    "Fitted to fewer GPUs, it is within 5 % of all larger ones."
    links = cost_model.fit_links(gpus)
    unseen = [n for n in cost_model.PUBLISHED_GPUS if n not in gpus]
    assert cost_model.mean_error(cost_model.model_speed_ups(**links, gpus=unseen))["relative"] < .05


def test_nothing_bought_is_nothing_gained():
    "Whatever the number of GPUs and the waiting, no improvement makes a cluster slower, more nodes apart."
    for gpus in (8, 16, 64):
        for waiting in (0., .1):
            table = cost_model.what_to_buy(gpus, waiting).set_index("improvement").times_as_fast
            assert (table.drop("twice as many nodes") >= 1 - 1e-9).all()


def test_a_power_law_ignores_the_unit_of_size():
    "In thousands of parameters the exponent is the same."
    x, y = np.array([1e4, 5e4, 3e5, 2e6]), np.array([3., 2.6, 2.3, 2.])
    a, b = fit_power_law(x, y), fit_power_law(x / 1000, y)
    assert a.exponent == pytest.approx(b.exponent) and a.interval == pytest.approx(b.interval)
    assert a.at(1e6) == pytest.approx(b.at(1e3))


def test_an_interval_covers_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(1., 2., (2000, 3))
    covered = np.mean([low < 1 < high for low, high in map(interval_of_mean, samples)])
    assert .935 < covered < .965


def test_the_range_of_six_covers_as_often_as_it_says():
    samples = np.random.default_rng(0).lognormal(0., 2., (4000, 6))     # as skewed as losses are; the median is 1
    covered = np.mean((samples.min(1) < 1) & (1 < samples.max(1)))
    assert abs(covered - range_confidence(6)) < .01


REHEARSED = [name for name in SETTINGS if (FOLDER/f"params/{name}.tiny.yaml").exists()]


@pytest.mark.slow
@pytest.mark.parametrize("name", REHEARSED)
def test_rehearsals_run(name, tmp_path, monkeypatch):
    "The whole notebook with tiny settings: it ends well, says three sentences, and its folder is small."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = run_notebook(str(FOLDER/f"{name}.ipynb"), read_yaml(FOLDER/"params"/f"{name}.tiny.yaml"), "tiny")
    results = run.results()
    assert run.state == "finished" and len(results["summary"]) == 3 and results["hypothesis"]
    kept = [p for p in run.folder.rglob("*") if p.is_file() and not {"checkpoint", "log"} & set(p.parts)]
    assert sum(p.stat().st_size for p in kept) < 2e6
    assert str(tmp_path) not in json.dumps(results) + (run.folder/"notebook.ipynb").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["namespaces", "loopback"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_nodes_end_as_one(where, precision, tmp_path, monkeypatch):
    "One of two nodes dies and comes back; the losses are those of one process, in bf16 to its rounding."
    import sentnb.studies.nodes as nodes
    if where == "namespaces" and not nodes.can_make_namespaces(): pytest.skip("needs root and the command ip")
    if where == "loopback": monkeypatch.setattr(nodes, "can_make_namespaces", lambda: False)
    small = ScaleConfig(hidden_size=32, batch_size=8, seq_len=16, documents=300)
    plan = dataclasses.replace(node_training(small, tmp_path), precision=precision)
    run = Run.create("scale_data_parallel", {}, "nodes", tmp_path/"runs")
    happened = rehearse_beside_one(plan, run)
    assert happened["network"] == ("network namespaces" if where == "namespaces" else "loopback addresses")
    assert 40 <= happened["resumed_at"] <= happened["killed_at"] < plan.steps
    assert happened["losses_apart"] < (2e-3 if precision == "bf16" else 1e-5)
