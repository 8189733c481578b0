"A run folder tells the truth, however its process ends."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import nbformat
import pytest

from sentnb.core import SentnbError, atomic_write, parse_yaml
from sentnb.runs import HEARTBEAT, LEASE, Run, list_runs

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
    assert run.state == "finished" and before >= 5
    assert list(run.metrics().step) == list(range(1, 61))    # no step is counted twice
    assert [life["state"] for life in run.status["history"]] == ["died"]


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


# one owner

def create_at(barrier, root, name, results):
    "Wait until all are ready, then begin a run; report its folder, or the sentence."
    barrier.wait(120)
    try: results.put(Run.create("race", name=name, root=root).name)
    except SentnbError as e: results.put(str(e))
    barrier.wait(120)       # nobody ends, which would make its run a dead one, before all have tried


@pytest.mark.parametrize("prepare", ["nothing", "same name", "a dead run"])
def test_of_four_that_begin_at_once_each_has_a_folder_and_one_a_name(tmp_path, monkeypatch, prepare):
    "Twenty synchronised rounds each: by time, by one name, and taking up one run that died."
    monkeypatch.setattr("sentnb.runs.environment", dict)     # nothing but the claim, so that they meet
    context = get_context("fork")
    for i in range(20):
        name = None if prepare == "nothing" else f"round-{i}"
        if prepare == "a dead run":
            dead = Run.create("race", name=name, root=tmp_path)
            status = dead._stored()
            status["owner"]["started"] = "1"
            atomic_write(dead.folder / "status.json", json.dumps(status))
            atomic_write(dead.folder / "lease-1", json.dumps(status["owner"]))
        barrier, results = context.Barrier(4), context.Queue()
        racers = [context.Process(target=create_at, args=(barrier, tmp_path, name, results)) for _ in range(4)]
        for racer in racers: racer.start()
        said = [results.get(timeout=120) for _ in racers]
        for racer in racers: racer.join(120)
        entered = [text for text in said if "being worked on" not in text]
        assert len(set(entered)) == len(entered) == (4 if name is None else 1), said
    leftovers = [f for f in tmp_path.glob("race/*/*") if f.name.startswith(".")]
    assert not leftovers


def test_four_commands_at_once_make_four_runs(place):
    "And with one name, one enters and three are told so."
    def four(*args):
        command = [SENTNB, "run", "slow.ipynb", "-p", "steps", "20", *args]
        started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                   for _ in range(4)]
        said = [process.communicate(timeout=300)[1] for process in started]
        return [process.returncode for process in started], said
    codes, said = four()
    runs = list_runs("runs")
    assert codes == [0] * 4 and list(runs.state) == ["finished"] * 4, said
    assert all(len(Run(Path(folder)).metrics()) == 20 for folder in runs.folder)
    codes, said = four("--name", "x")
    assert sorted(codes) == [0, 2, 2, 2]
    assert sum("is being worked on by process" in text or "is finished" in text for text in said) == 3, said


# another host

def elsewhere(*command, **options):
    "Start a command under another host name."
    tried = ["unshare", "-u", "hostname", "x"]
    if not shutil.which("unshare") or subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("giving a process another host name needs root and unshare")
    program = ["unshare", "-u", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", *map(str, command)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


OWNER = """
import sys, time
from sentnb.runs import Run
run = Run.create("far", dict(lr=1.0), name="x", root=sys.argv[1])
run.update(step=17)
print("ready", flush=True)
sys.stdin.readline()
run.update(step=18)
"""


def far_owner(root, **options):
    process = elsewhere(sys.executable, "-c", OWNER, root, stdin=subprocess.PIPE, **options)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def make_silent(run, seconds=LEASE + 1):
    "Let the time since the last sign of life pass at once."
    then = time.time() - seconds
    for name in ("status.json", "lease-1"): os.utime(run.folder / name, (then, then))


def test_a_working_run_on_another_host_is_left_alone(tmp_path):
    "Its heart beats, though it writes nothing."
    process = far_owner(tmp_path)
    run = Run.open(tmp_path / "far/x")
    with pytest.raises(SentnbError, match=f"on another host: choose another name, or wait until .* {LEASE} seconds"):
        Run.create("far", dict(lr=1.0), "x", tmp_path)
    make_silent(run)
    assert run.state == "died"
    wait_until(lambda: run.state == "running", seconds=3 * HEARTBEAT)
    process.kill()


def test_a_run_killed_on_another_host_goes_on_here(tmp_path):
    process = far_owner(tmp_path)
    process.kill()
    process.wait()
    run = Run.open(tmp_path / "far/x")
    assert run.state == "running"                    # nobody can know yet
    make_silent(run)
    assert (run.state, run.status["step"]) == ("died", 17)
    again = Run.create("far", dict(lr=1.0), "x", tmp_path)
    assert (again.state, again.status["step"], again.life) == ("running", 17, 2)


def test_a_job_that_the_scheduler_starts_again_goes_on_at_once(tmp_path, monkeypatch):
    process = far_owner(tmp_path, env=os.environ | dict(SLURM_JOB_ID="7"))
    process.kill()
    process.wait()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert Run.create("far", dict(lr=1.0), "x", tmp_path).status["step"] == 17


def test_who_was_taken_for_dead_does_not_write_into_the_new_life(tmp_path):
    process = far_owner(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    make_silent(Run.open(tmp_path / "far/x"))
    Run.create("far", dict(lr=1.0), "x", tmp_path)
    os.kill(process.pid, signal.SIGCONT)
    _, err = process.communicate("go on\n", timeout=60)
    assert process.returncode and "run far/x was taken over by process" in err
    assert Run.open(tmp_path / "far/x").status["step"] == 17


def test_a_command_killed_on_another_host_goes_on_here(place):
    "With the real command."
    process = elsewhere(SENTNB, "run", "slow.ipynb", "--name", "x", "-p", "steps", "300")
    wait_until(lambda: reached(5))
    os.kill(process.pid, signal.SIGKILL)
    os.kill(int(Path("kernel.pid").read_text()), signal.SIGKILL)
    process.wait()
    make_silent(Run.open("runs/slow/x"))
    again = start("-p", "steps", "300")
    _, err = again.communicate(timeout=180)
    assert again.returncode == 0 and Run.open("runs/slow/x").state == "finished", err


# stopped, and taken up

STOPS = """
from sentnb.runs import Run
run = Run.current("stops", dict(steps=steps))
for step in range(run.status["step"] + 1, steps + 1):
    run.log(step=step, split="train", loss=1 / step)
    run.update(step=step)
    if step == 10: break
if step < steps: run.update("stopped", message=f"stopped by its time limit after step {step}")
run.update("running")
run.save_result("last", step)
"""


def test_a_run_that_stopped_is_taken_up_and_extended(place):
    parameters = nbformat.v4.new_code_cell("steps = 15  # how far", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(STOPS)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, "stops.ipynb")

    def run(*args):
        return subprocess.run([SENTNB, "run", "stops.ipynb", *args], capture_output=True, text=True, timeout=180)

    first = run("--name", "x")
    stopped = Run.open("runs/stops/x")
    assert first.returncode == 0 and stopped.state == "stopped", first.stderr
    assert "stopped by its time limit after step 10" in first.stdout
    assert "--resume x" in first.stdout
    refused = run("--name", "x", "-p", "steps", "30")
    assert refused.returncode == 2 and "stopped with other parameters (steps)" in refused.stderr
    second = run("--resume", "x", "-p", "steps", "30")
    assert second.returncode == 0 and stopped.state == "finished", second.stderr
    assert stopped.params() == {"steps": 30} and list(stopped.metrics().step) == list(range(1, 31))
    assert stopped.status["history"][0]["changed"] == {"steps": [15, 30]}
    for args, says in [(["--resume", "y"], "there is no run 'y'"), (["--resume", "x"], "is finished: to extend it"),
                       (["--resume", "x", "--name", "z"], "--resume names the run")]:
        wrong = run(*args)
        assert wrong.returncode == 2 and says in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_report_that_cannot_be_written_does_not_undo_the_run(place, monkeypatch):
    def broken(*_): raise RuntimeError("no room for pictures")
    monkeypatch.setattr("sentnb.viz.report.write_report", broken)
    from sentnb.execute import run_notebook
    run = run_notebook("slow.ipynb", dict(steps=2), "x")
    assert run.state == "finished"
    assert run.status["message"] == "the report could not be written: RuntimeError: no room for pictures"


# mistakes

def test_a_damaged_status_does_not_hide_the_other_runs(place):
    Run.create("demo", name="good").finish()
    for i, damage in enumerate(["", "{", "[]", "[" * 100_000, "{}", '{"state": 3}', '{"state": "running"}',
                                '{"state": "running", "owner": {"pid": "x"}}', '\x00']):
        atomic_write(f"runs/demo/bad{i}/status.json", damage)
    atomic_write("runs/demo/latin/status.json", b"\xff\xfe")
    listed = subprocess.run([SENTNB, "runs"], capture_output=True, text=True)
    assert listed.returncode == 0 and "Traceback" not in listed.stderr
    assert listed.stdout.count("damaged") >= 8 and "good" in listed.stdout


@pytest.mark.parametrize("name", [".", "..", ".hidden", "a/b", "", "x" * 300, "a\nb"])
def test_names_that_no_run_can_have(place, name):
    process = subprocess.run([SENTNB, "run", "slow.ipynb", "--name", name], capture_output=True, text=True)
    assert process.returncode == 2 and "cannot name a run" in process.stderr and "Traceback" not in process.stderr
    assert not Path("runs").exists()


def test_yaml_never_calls_anything(tmp_path):
    call = f"os.mkdir ['{tmp_path}/made']"
    for text in [f"!!python/object/apply:{call}", f"!!python/object/new:{call}",
                 "!!python/name:os.system", "!!python/module:os", "!!python/tuple [1, 2]"]:
        with pytest.raises(SentnbError, match="not valid YAML"): parse_yaml(text)
    assert not (tmp_path / "made").exists()


def test_a_limit_on_file_sizes_is_one_sentence(tmp_path):
    program = f"from sentnb.core import atomic_write; atomic_write('{tmp_path}/x', b'x' * 10_000_000)"
    limited = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", sys.executable, "-c", program]
    process = subprocess.run(limited, capture_output=True, text=True)
    assert "SentnbError: the limit on the size of a file (ulimit -f) is reached: x was not written" in process.stderr
    assert not list(tmp_path.iterdir())


def test_a_read_only_file_system_is_one_sentence(place):
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "runs"]
    Path("runs").mkdir()
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        process = start()
        _, err = process.communicate(timeout=180)
        assert process.returncode == 2 and "the file system is read-only" in err and err.count("\n") == 1
    finally: subprocess.run(["umount", "runs"], check=True)
