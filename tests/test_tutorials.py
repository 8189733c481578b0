"The tutorials: names that exist, all flags of the original, and cells that run in the time that a reader has."
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from sentnb.cli import build_parser
from sentnb.execute import declared

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
MAPPING = ROOT / "nbs" / "tutorials" / "03_from_the_original.ipynb"

# What the original's parsers know: arguments.py, configure_data.py, generate.py, threshold.py, its experiments, and
# the tag large_batch_stable.
FLAGS = """model lr constant-decay clip epochs tied seed log-interval save load load-optim save-iters save-optim fp16
dynamic-loss-scale loss-scale no-weight-norm world-size rank distributed-backend multinode-init base-gpu tcp-port optim
chkpt-grad ids data valid test process-fn batch-size eval-batch-size data-size loose-json preprocess delim text-key
label-key eval-text-key eval-label-key non-binary-cols split tokenizer-type tokenizer-model-type vocab-size
tokenizer-path num-shards val-shards test-shards seq-length eval-seq-length lazy persist-state train-iters eval-iters
decay-style stlr-cut-frac warmup emsize nhid nlayers dropout num-hidden-warmup residuals neural-alphabet alphabet-size
ncontext attention-dropout relu-dropout encoder-embed-path encoder-embed-dim encoder-ffn-embed-dim encoder-layers
encoder-attention-heads encoder-normalize-before encoder-learned-pos decoder-embed-path decoder-embed-dim
decoder-ffn-embed-dim decoder-layers decoder-attention-heads decoder-learned-pos decoder-normalize-before
share-decoder-input-output-embed share-all-embeddings use-final-embed options-file weights-file max-seq-len
classifier-hidden-layers classifier-hidden-activation classifier-dropout all-layers concat-max concat-min concat-mean
get-hidden neurons heads-per-class use-softmax double-thresh dual-thresh joint-binary-train mcc save-results
no-test-eval write-results use-cached drop-neurons save_probs use-logreg cos-cut-frac lr-decay momentum weight-decay
freeze-lm aux-lm-loss aux-lm-loss-weight aux-head-variance-loss-weight class-single-threshold
use-class-multihead-average save-test-preds thresh-test-preds report-metric metric all-metrics threshold-metric micro
global-tweaks save-finetune model-version-name automatic-thresholding report-no-thresholding dual-threshold
warmup-epochs decay-epochs load-finetuned text gen_length temperature neuron overwrite visualize load_model all_layers
task preds-file labels-file gpu train val""".split()

HOMES = dict(   # where the names of the tables come from
    PretrainConfig="sentnb.training.trainer", PrepareConfig="sentnb.data.preparing", LMConfig="sentnb.models.lm",
    LanguageModel="sentnb.models.lm", transfer="sentnb.tasks.transfer", solve="sentnb.tasks.solvers",
    load_dataset="sentnb.data.datasets", k_sweep="sentnb.tasks.neurons", Edit="sentnb.models.sampling",
    Heatmap="sentnb.viz.heatmap", slanted_triangular="sentnb.training.schedules",
    FinetuneConfig="sentnb.tasks.finetune", Task="sentnb.tasks.finetune", score="sentnb.tasks.metrics",
    elmo_activations="sentnb.models.elmo")


def rows() -> list[list[str]]:
    "The cells of all table rows of the mapping."
    cells = nbformat.read(MAPPING, 4).cells
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return [[part.strip() for part in line.strip("| ").split(" | ")] for line in lines if line.startswith("| `")]


def flag_rows() -> dict[str, tuple[str, str]]:
    "Flag -> what is here, and the remark."
    found = {}
    for flag, here, *remark in (row for row in rows() if row[0].startswith("`--")):
        name = flag.strip("`").removeprefix("--")
        assert name not in found, f"{flag} is mapped twice"
        found[name] = here, " ".join(remark).strip("| ")
    return found


def names() -> list[str]:
    "Everything of ours that the tables mention, such as `PretrainConfig.lr`, `transfer(refit)`, `run_sk_sst: state`."
    quoted = {name for row in rows() for cell in row[1:] for name in re.findall(r"`([^`]+)`", cell)}
    pattern = r"\w+\.\w+|[\w.]+\(\w+\)|\w+: \w+|sentnb \w+ --[\w-]+|sentnb run \w+.*"
    named = {name for name in quoted if re.fullmatch(pattern, name)}
    return sorted(name for name in named if not name.startswith("torch.") and not name.endswith(".py"))


def look_up(name: str):
    "A class, function or method by the name under which the tables know it."
    first, *rest = name.split(".")
    module = HOMES[first]
    if not find_spec(module): pytest.skip(f"{module} is not here")
    thing = getattr(importlib.import_module(module), first)
    for part in rest: thing = getattr(thing, part)
    return thing


def options(command: str) -> set[str]:
    "The long options of one of our commands."
    commands, = (action for action in build_parser()._actions if hasattr(action, "choices") and action.choices)
    return {option for action in commands.choices[command]._actions for option in action.option_strings}


def notebook(name: str) -> Path:
    path = ROOT / "nbs" / "experiments" / f"{name}.ipynb"
    if not path.exists(): pytest.skip(f"{path.name} is not here")
    return path


def test_every_flag_of_the_original_has_a_successor_or_a_reason():
    mapped = flag_rows()
    assert not set(FLAGS) - set(mapped), "flags that are not mapped"
    assert not set(mapped) - set(FLAGS), "flags that the original does not have"
    for flag, (here, remark) in mapped.items():
        assert here == "none" or "`" in here, flag
        assert here != "none" or remark, f"--{flag} has no successor and no reason"


@pytest.mark.parametrize("name", names())
def test_what_is_named_exists(name):
    if match := re.fullmatch(r"sentnb run (\w+)(.*)", name):
        if match[1] == "": return
        assert declared(notebook(match[1])) and set(re.findall(r" (--\w+)", match[2])) <= options("run")
        for parameter in re.findall(r"-p (\w+)", match[2]): assert parameter in declared(notebook(match[1]))
    elif match := re.fullmatch(r"sentnb (\w+) (--[\w-]+)", name):
        assert match[2] in options(match[1])
    elif match := re.fullmatch(r"(\w+): (\w+)", name):
        assert match[2] in declared(notebook(match[1]))
    elif match := re.fullmatch(r"([\w.]+)\((\w+)\)", name):
        assert match[2] in inspect.signature(look_up(match[1])).parameters
    else:
        owner, field = name.split(".")
        assert field in {f.name for f in dataclasses.fields(look_up(owner))}


def test_the_names_are_found():
    assert len(names()) > 60


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_are_committed_executed(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_tutorials_lead_from_one_to_the_next():
    assert len(TUTORIALS) >= 4
    for here, there in zip(TUTORIALS, TUTORIALS[1:]):
        assert f"]({there.name})" in "\n".join(cell.source for cell in nbformat.read(here, 4).cells[-3:])


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_in_three_minutes(path, tmp_path):
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / path.name), "-k", "python3"]
    began = time.process_time(), time.perf_counter()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"{time.perf_counter() - began[1]:.0f} seconds")
