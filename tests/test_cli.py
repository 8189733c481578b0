"The command line as a user types it."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch

import sentnb
from sentnb.cli import main
from sentnb.runs import Run

SENTNB = str(Path(sys.executable).parent / "sentnb")


def run(*args, **options):
    "What a command says, and its exit code."
    options = dict(capture_output=True, text=True, timeout=300) | options
    return subprocess.run([SENTNB, *map(str, args)], **options)


def refused(capsys, *args):
    "What a command that cannot begin says, in this process: starting Python takes longer than most of these tests."
    assert main([*map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sentnb: ") and said.count("\n") == 1
    return said


def notebook(path, parameters, work="pass"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(work)]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(made, path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SENTNB_RUN", raising=False)
    return tmp_path


def test_version_and_module(place):
    as_module = subprocess.run([sys.executable, "-m", "sentnb", "--version"], capture_output=True, text=True)
    assert as_module.stdout == run("--version").stdout == f"sentnb {sentnb.__version__}\n"
    for module in ("sentnb", "sentnb.cli"):
        wrong = subprocess.run([sys.executable, "-m", module, "run", "nothing"], capture_output=True, text=True)
        assert wrong.returncode == 2 and wrong.stderr.startswith("sentnb: there is no notebook 'nothing'")


def test_help_lists_parameters_with_their_comments(place):
    notebook("own.ipynb", "hidden_size = 256  # units of the layer\nwords = ('a',)")
    own = run("run", "own.ipynb", "--help")
    assert own.returncode == 0 and "usage: sentnb run" in own.stdout
    assert "hidden_size = 256  units of the layer" in own.stdout and "words = ('a',)" in own.stdout
    assert "units of the small model" in run("run", "quickstart", "-h").stdout
    assert "quickstart" in run("run", "--help").stdout
    prepare = run("prepare", "--help").stdout
    assert "where the corpus goes" in prepare and "max_bad_share = 0.01" in prepare
    absent = run("run", "absent", "--help")
    assert absent.returncode == 2 and absent.stderr.startswith("sentnb: there is no notebook 'absent'")


def test_runs_show_what_they_reached_and_compare(place):
    for name, lr in dict(low=.001, high=.1).items():
        made = Run.create("demo", dict(lr=lr, steps=3), name=name)
        made.log(step=3, split="val", bits_per_character=2 + lr)
        made.save_result("accuracy", .75)
        made.finish()
    status = json.loads(Path("runs/demo/high/status.json").read_text())
    began = status["updated"].replace(status["updated"][:4], "2001", 1)
    Path("runs/demo/high/status.json").write_text(json.dumps(status | dict(began=began)))
    table = run("runs").stdout
    assert "bits per character 2.1, accuracy 0.75" in table and "duration" in table and " days " in table
    compared = run("runs", "--compare", "low", "demo/high")
    assert compared.returncode == 0 and "lr" in compared.stdout and "2.001" in compared.stdout
    assert "steps" not in compared.stdout and "accuracy" not in compared.stdout      # the same in both
    assert run("runs", "--compare", "low", "low").stdout == "they do not differ\n"
    absent = run("runs", "--compare", "low", "hihg")
    assert absent.returncode == 2 and "there is no run 'hihg' (did you mean 'high'?)" in absent.stderr


def test_generate_writes_on_with_the_neuron_held(place):
    plain = run("generate", "This is ", "--length", 40, "--seed", 3)
    assert plain.returncode == 0 and "This is " in plain.stdout and "Traceback" not in plain.stderr, plain.stderr
    assert plain.stdout == run("generate", "This is ", "--length", 40, "--seed", 3).stdout
    held = {clamp: run("generate", "This is ", "--clamp", clamp, "--length", 40, "--seed", 3, "--temperature", 0)
            for clamp in ("positive", "negative", "-2.0")}
    assert [r.returncode for r in held.values()] == [0, 0, 0], held["positive"].stderr
    assert held["negative"].stdout == held["-2.0"].stdout != held["positive"].stdout
    three = run("generate", "This is ", "--samples", 3, "--length", 10).stdout
    assert three.count("This is ") == 3
    for args, says in [(["--clamp", "happy"], "--clamp takes positive, negative"), (["--model", "absent"], "absent"),
                       (["--seed", -1], "seed must be between"), (["--device", "meta"], "no device 'meta'")]:
        wrong = run("generate", "x", *args)
        assert wrong.returncode == 2 and says in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr


COMPLETE = """
eval "$(register-python-argcomplete sentnb)"
COMP_WORDS=($1 "$2") COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="$1 $2" COMP_POINT=${#COMP_LINE} COMP_TYPE=9
$(complete -p sentnb | sed "s/.*-F \\([^ ]*\\) .*/\\1/") sentnb "$2" ""
printf "%s\\n" "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("typed, word, offers", [
    ("sentnb", "gen", "generate"), ("sentnb runs", "--comp", "--compare"), ("sentnb run", "quick", "quickstart"),
    ("sentnb run quickstart -p", "sent", "sentence"), ("sentnb run quickstart --resume", "demo/", "demo/x"),
    ("sentnb runs --compare", "demo/", "demo/x")])
def test_tab_completes_commands_notebooks_parameters_and_runs(place, typed, word, offers):
    "In bash, as the line in the help sets it up; the words are what the Tab key hands to the completion."
    pytest.importorskip("argcomplete")
    if not shutil.which("bash"): pytest.skip("this system has no bash")
    Run.create("demo", name="x").finish()
    path = os.pathsep.join([str(Path(SENTNB).parent), os.environ["PATH"]])
    pressed = subprocess.run(["bash", "-c", COMPLETE, "bash", typed, word], capture_output=True, text=True,
                             timeout=60, env=os.environ | dict(PATH=path))
    assert pressed.stdout.split() == [offers], pressed.stdout + pressed.stderr


def test_without_argcomplete_the_shell_gets_no_traceback(place):
    answer = run("--version", env=os.environ | dict(_ARGCOMPLETE="1"))
    assert "Traceback" not in answer.stderr


# mistakes

@pytest.mark.parametrize("args, says", [
    (["-p", "seed", "-1"], "seed must be between 0 and 4,294,967,295, not -1"),
    (["-p", "lr", ".nan"], "parameter 'lr' must be a finite number, not nan"),
    (["-p", "lr", ".inf"], "parameter 'lr' must be a finite number, not inf"),
    (["-p", "lr", "[" * 5000], "parameter 'lr' must be float, not '[[["),
    (["-p", "x" * 5000, "1"], "unknown parameter"),
    (["-f", "x" * 5000], "there is no parameter file"),
    (["-f", "deep.yaml"], "deep.yaml is not valid YAML: it is nested too deeply"),
    (["-f", "calls.yaml"], "calls.yaml is not valid YAML: could not determine a constructor"),
    (["-f", "latin.yaml"], "latin.yaml cannot be read"),
    (["-f", "date.yaml"], "date.yaml is not valid YAML: month must be in 1..12"),
])
def test_bad_parameters_are_one_sentence(place, capsys, args, says):
    notebook("own.ipynb", "lr = 1.0\nseed = 0")
    Path("deep.yaml").write_text("a: " + "[" * 100_000)
    Path("calls.yaml").write_text("a: !!python/object/apply:os.mkdir [made]")
    Path("latin.yaml").write_bytes(b"a: \xff")
    Path("date.yaml").write_text("a: 2001-99-99")
    said = refused(capsys, "run", "own.ipynb", *args)
    assert says in said and len(said) < 7000 and not Path("runs").exists() and not Path("made").exists()


@pytest.mark.parametrize("content", [
    "", "no notebook", "[]", "[" * 100_000, '{"cells": []}',
    '{"cells": 1, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    '{"cells": [], "nbformat": 99, "nbformat_minor": 5, "metadata": {}}'])
def test_a_damaged_notebook_is_one_sentence(place, capsys, content):
    Path("bad.ipynb").write_text(content)
    assert refused(capsys, "run", "bad.ipynb").startswith("sentnb: bad.ipynb")


@pytest.mark.parametrize("cell", [
    "a = (", "a = b", "a += 1", "a = b = 1", "import os", "a = " + "(" * 5000, "a = {[]: 1}"])
def test_a_parameters_cell_that_is_none_is_one_sentence(place, capsys, cell):
    assert "bad.ipynb: " in refused(capsys, "run", notebook("bad.ipynb", cell))


def test_output_that_cannot_be_written_is_one_sentence(place):
    Run.create("demo", name="x").finish()
    if not Path("/dev/full").exists(): pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full: wrong = run("runs", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert wrong.returncode == 2 and wrong.stderr.startswith("sentnb: the disk is full: the output was not written")
    assert wrong.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error(place):
    Run.create("demo", name="first").finish()
    for i in range(1000):
        Path(f"runs/demo/{i}").mkdir()
        shutil.copy("runs/demo/first/status.json", f"runs/demo/{i}")
    pipe = subprocess.run(f"{SENTNB} runs | head -1", shell=True, capture_output=True, text=True)
    assert "experiment" in pipe.stdout and not pipe.stderr


SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except BaseException: pass
"""


def test_an_interrupt_during_imports_is_not_lost(place):
    "A module that catches everything is imported in the place of papermill."
    notebook("own.ipynb", "lr = 1.0", "open('ran', 'w')")
    (place / "papermill.py").write_text(SWALLOWS)
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    stopped = run("run", "own.ipynb", env=os.environ | dict(PYTHONPATH=path))
    assert (stopped.returncode, stopped.stderr) == (130, "sentnb: interrupted\n")
    assert not Path("ran").exists() and not Path("runs").exists()


def test_every_interrupt_ends_the_command(place):
    "Ctrl-C at 6 moments of the first seconds: the command ends, and no run is left that claims to be working."
    notebook("own.ipynb", "lr = 1.0", "import time; time.sleep(60)")
    for i in range(6):
        process = subprocess.Popen([SENTNB, "run", "own.ipynb", "--name", f"{i}"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        time.sleep(.3 + .7 * i)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (2, 130, -signal.SIGINT), (i, err)
    states = [Run(folder.parent).state for folder in Path("runs").glob("*/*/status.json")]
    assert set(states) <= {"died"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported_in_seconds(place):
    "The paper's settings on a machine without a GPU: what is missing, what to pass instead, before any work."
    began = time.monotonic()
    done = run("run", "train_mlstm_singlenode")
    assert done.returncode == 2 and time.monotonic() - began < 55          # idle: 6 s, most of it imports
    said = done.stderr.splitlines()[-1]
    assert "this machine has none: pass -f cpu_small" in said and "Traceback" not in done.stderr
    assert not list(place.glob("runs/*/*/checkpoint/step-*"))
