"A run folder tells the truth, however its process ends."
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

from sentnb.core import SentnbError, atomic_write
from sentnb.runs import Run, list_runs

SENTNB = str(Path(sys.executable).parent / "sentnb")
WORK = """
import os, time
from pathlib import Path
from sentnb.runs import Run
run = Run.current("slow", dict(steps=steps))
Path("kernel.pid").write_text(str(os.getpid()))
for step in range(1, steps + 1):
    run.log(step=step, split="train", loss=1 / step)
    run.update(step=step)
    time.sleep(.05)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty folder with one notebook that runs for a minute."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SENTNB_RUN", raising=False)
    parameters = nbformat.v4.new_code_cell("steps = 1200", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(WORK)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, "slow.ipynb")
    return tmp_path


def start(*args):
    command = [SENTNB, "run", "slow.ipynb", "--name", "x", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=180):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(.05)


def reached(n):
    path = Path("runs/slow/x/status.json")
    return path.exists() and json.loads(path.read_text())["step"] >= n


KILLS = [("kernel", signal.SIGKILL), ("sentnb", signal.SIGINT), ("sentnb", signal.SIGTERM), ("sentnb", signal.SIGKILL)]


@pytest.mark.parametrize("whom, how", KILLS)
def test_a_killed_run_says_that_it_died_and_where(place, whom, how):
    process = start()
    wait_until(lambda: reached(5))
    kernel = int(Path("kernel.pid").read_text())
    os.kill(kernel if whom == "kernel" else process.pid, how)
    _, err = process.communicate(timeout=180)
    run = Run.open("runs/slow/x")
    wait_until(lambda: run.state == "died")   # a kernel whose sentnb is gone notices within seconds, and ends
    step = run.status["step"]
    assert step >= 5 and str(step) in run.status["message"]
    assert abs(step - run.metrics().step.max()) <= 1
    assert list(list_runs("runs").state) == ["died"]
    sentnb_could_speak = how != signal.SIGKILL or whom == "kernel"
    if sentnb_could_speak: assert "Traceback" not in err and err.strip().count("\n") <= 3


def test_a_run_that_died_is_continued(place):
    "With the same parameters only; and the metrics of its first life are kept."
    process = start("-p", "steps", "60")
    wait_until(lambda: reached(5))
    os.kill(int(Path("kernel.pid").read_text()), signal.SIGKILL)
    assert process.wait(180) == 2 and Run.open("runs/slow/x").state == "died"
    before = len(Run.open("runs/slow/x").metrics())
    _, err = start("-p", "steps", "61").communicate(timeout=180)
    assert "died with other parameters (steps)" in err
    assert start("-p", "steps", "60").wait(180) == 0
    run = Run.open("runs/slow/x")
    assert run.state == "finished" and len(run.metrics()) == before + 60


def test_a_finished_run_is_complete_and_stays_as_it_is(place):
    assert start("-p", "steps", "20").wait(180) == 0
    assert Run.open("runs/slow/x").state == "finished"
    expected = {"params.yaml", "env.json", "metrics.jsonl", "status.json", "notebook.ipynb", "report.html"}
    assert expected <= {p.name for p in Path("runs/slow/x").iterdir()}
    again = start("-p", "steps", "20")
    _, err = again.communicate(timeout=180)
    assert again.returncode == 2 and "is finished and is not overwritten" in err


@pytest.mark.parametrize("given, says", [
    (["-p", "stepz", "3"], "unknown parameter 'stepz' (did you mean 'steps'?)"),
    (["-p", "steps", "many"], "parameter 'steps' must be int, not 'many'"),
    (["-f", "absent"], "there is no parameter file 'absent'"),
])
def test_bad_parameters_stop_before_anything_starts(place, given, says):
    process = start(*given)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 2 and says in err and "Traceback" not in err
    assert not Path("runs").exists()


def test_no_path_of_this_machine_in_what_is_left(place):
    start("-p", "steps", "2").wait(180)
    for name in ("notebook.ipynb", "report.html", "env.json", "status.json", "params.yaml"):
        assert str(place) not in (place / "runs/slow/x" / name).read_text()


def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path):
    "On a real file system that is really full."
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        atomic_write(small / "status.json", "old")
        with pytest.raises(SentnbError, match="the disk is full: status.json was not written"):
            atomic_write(small / "status.json", b"x" * 200_000)
        assert (small / "status.json").read_text() == "old"
        assert [p.name for p in small.iterdir()] == ["status.json"]
    finally: subprocess.run(["umount", small], check=True)
