"Ranks that die, cells that are interrupted, kernels that are killed, nodes that are lost: explained, no orphans."
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sentnb.core import SentnbError, write_yaml
from sentnb.data.token_files import example_corpus
from sentnb.training.launch import launch
from sentnb.training.pretrain import pretrain
from training_tools import (child_env, environment_of, new_run, processes_of, same_curves, same_weights, settings,
                            wait_for)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes through /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory): return example_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch): monkeypatch.setenv("OMP_NUM_THREADS", "1")


def endless(corpus, **changes):
    usual = dict(steps=10**6, nproc=2, eval_every=0, log_every=2, save_every=5, timeout_seconds=20.)
    return settings(corpus, **usual | changes)


@contextmanager
def signal_to_rank(run, rank, step, sig=signal.SIGKILL):
    """Send a rank a signal once the run has logged `step`, while the block launches it. Where that cannot be done, the
    launch is ended, since it would never end by itself, and the reason is raised."""
    failed = []
    ended = threading.Event()

    def is_there(): return ended.is_set() or run.status.get("step", 0) >= step and processes_of(run)

    def wait_and_send():
        try:
            wait_for(is_there, 120, f"step {step}")
            if ended.is_set(): return
            if rank not in (found := processes_of(run)): raise ProcessLookupError(f"no rank {rank} among {list(found)}")
            os.kill(found[rank], sig)
        except BaseException as e:
            failed.append(e)
            end_launch(run)
    thread = threading.Thread(target=wait_and_send)
    thread.start()
    try: yield
    finally:
        ended.set()
        thread.join()
        if failed: raise failed[0]


def end_launch(run):
    "Kill the agent of a run that this process started; its ranks go with it."
    folder = str(run.folder.resolve())
    for child in psutil.Process().children():
        if environment_of(child.pid).get("SENTNB_RUN") == folder: child.kill()


def test_a_launch_that_cannot_be_disturbed_ends(corpus, tmp_path):
    "A signal to a rank that does not exist: the test that wanted it fails, and does not wait forever."
    config = endless(corpus, nproc=1)
    run = new_run(tmp_path, "undisturbed", config)
    with pytest.raises(ProcessLookupError, match="no rank 7"):
        with signal_to_rank(run, 7, 2), pytest.raises(SentnbError): launch(config, run)
    wait_for(lambda: not processes_of(run), 45, "all processes to end")


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_rank_is_named(corpus, tmp_path, rank):
    config = endless(corpus)
    run = new_run(tmp_path, "killed", config)
    named = rf"rank {rank} was killed by signal 9 \(SIGKILL\); the end of its log"
    with signal_to_rank(run, rank, 6), pytest.raises(SentnbError, match=named): launch(config, run)
    assert run.state == "failed" and f"rank {rank}" in run.status["message"] and not processes_of(run)
    logs = sorted(p.relative_to(run.log_folder).as_posix() for p in run.log_folder.rglob("*.log"))
    assert logs == ["ranks/0/0.stderr.log", "ranks/0/0.stdout.log", "ranks/0/1.stderr.log", "ranks/0/1.stdout.log",
                    "torchrun.log"]


BROKEN_PROBE = """
def probe(lm, step): return {}['no such key']
"""
BROKEN_ON_RANK_1 = """
import os
import sentnb.training.trainer as trainer
def break_on_rank_1(self):
    if self.step == 6 and os.environ["RANK"] == "1": raise ZeroDivisionError("rank 1 is broken")
    return usual_lr(self)
usual_lr = trainer.Trainer.lr.fget
trainer.Trainer.lr = property(break_on_rank_1)
def probe(lm, step): return {}
"""


@pytest.mark.slow
def test_traceback_of_a_rank(corpus, tmp_path, monkeypatch):
    (tmp_path / "probe_that_breaks.py").write_text(BROKEN_PROBE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = endless(corpus, probe="probe_that_breaks.probe", eval_every=4)
    run = new_run(tmp_path, "broken", config)
    named = "(?s)rank 0 ended with an error.*Traceback.*probe_that_breaks.*KeyError: 'no such key'"
    with pytest.raises(SentnbError, match=named): launch(config, run)


@pytest.mark.parametrize("attempt", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 4))])
def test_first_rank_to_fail_is_named(corpus, tmp_path, monkeypatch, attempt):
    "Rank 1 raises; rank 0, in the middle of an exchange with it, fails a moment later. The agent sees both at once."
    (tmp_path / "rank_1_breaks.py").write_text(BROKEN_ON_RANK_1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), child_env()["PYTHONPATH"]]))
    config = endless(corpus, probe="rank_1_breaks.probe")
    run = new_run(tmp_path, "broken", config)
    named = "(?s)rank 1 ended with an error.*ZeroDivisionError: rank 1 is broken"
    with pytest.raises(SentnbError, match=named): launch(config, run)


ABORTS_AT_EXIT = """
import atexit, os
if os.environ.get("RANK"): atexit.register(os.abort)
def probe(lm, step): return {}
"""


def test_a_good_end_stays_good(corpus, tmp_path, monkeypatch):
    "What the interpreter would stumble over while it shuts down, such as a thread of gloo, does not undo the training."
    (tmp_path / "aborts_at_exit.py").write_text(ABORTS_AT_EXIT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), child_env()["PYTHONPATH"]]))
    config = endless(corpus, steps=4, probe="aborts_at_exit.probe")
    run = new_run(tmp_path, "good", config)
    assert launch(config, run).finished and run.state == "finished"
    outputs = sorted((run.log_folder / "ranks" / "0").glob("*.stdout.log"))
    assert all(file.read_text().endswith("finished at step 4\n") for file in outputs) and len(outputs) == 2


@pytest.mark.slow
def test_restart_goes_on(corpus, tmp_path):
    "With one restart allowed, a killed rank costs time and nothing else."
    config = endless(corpus, steps=60, max_restarts=1)
    straight, broken = (new_run(tmp_path, name, config) for name in ("straight", "broken"))
    launch(config, straight)
    with signal_to_rank(broken, 1, 20): assert launch(config, broken).step == 60
    assert same_weights(straight, broken, 60) and same_curves(straight, broken)
    assert sorted(p.name for p in (broken.log_folder / "ranks").iterdir()) == ["0", "1"]


PARENT = """
import sys
from sentnb.core import from_dict
from sentnb.runs import Run
from sentnb.training.launch import launch
from sentnb.training.trainer import PretrainConfig
run = Run.open(sys.argv[1])
launch(from_dict(PretrainConfig, run.params()), run)
"""


@pytest.mark.parametrize("sig", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_nobody_is_left_behind(corpus, tmp_path, sig):
    "Interrupting the launching process (a notebook's kernel), or killing it, ends all, and the last step is saved."
    config = endless(corpus, save_every=0)
    run = new_run(tmp_path, "parent", config)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(run.folder)], env=child_env(),
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        training = "a training to interrupt"
        wait_for(lambda: run.status.get("step", 0) >= 4 and len(processes_of(run)) == 2, what=training)
        parent.send_signal(sig)
        parent.wait(60)
        wait_for(lambda: not processes_of(run), 45, "all processes to end")
    finally:
        parent.kill()
        parent.stderr.close()
    assert (run.checkpoint_folder / "latest").exists()


def test_nobody_starts_without_a_parent(corpus, tmp_path):
    "The launching process is gone before its agent could ask to be told: the agent ends, and starts no ranks."
    config = endless(corpus)
    run = new_run(tmp_path, "orphan", config)
    params = write_yaml(run.checkpoint_folder / "params.yaml", dataclasses.asdict(config))
    gone = subprocess.Popen(["true"])
    gone.wait()
    env = child_env(SENTNB_RUN=str(run.folder.resolve()), SENTNB_PARENT=str(gone.pid))
    agent = subprocess.Popen([sys.executable, "-m", "sentnb.training.launch", str(params)], env=env)
    try: assert agent.wait(60) == -signal.SIGTERM
    finally: agent.kill()
    assert not (run.log_folder / "ranks").exists() and not processes_of(run)


def test_no_rank_starts_without_its_agent(corpus, tmp_path):
    "The agent is killed while a rank still imports torch: the rank ends before it has done anything."
    config = endless(corpus, nproc=1)
    run = new_run(tmp_path, "orphan", config)
    params = write_yaml(run.checkpoint_folder / "params.yaml", dataclasses.asdict(config))
    gone = subprocess.Popen(["true"])
    gone.wait()
    env = child_env(SENTNB_RUN=str(run.folder.resolve()), SENTNB_AGENT=str(gone.pid), RANK="0", WORLD_SIZE="1")
    rank = subprocess.Popen([sys.executable, "-m", "sentnb.training.pretrain", str(params)], env=env)
    try: assert rank.wait(120) == -signal.SIGKILL
    finally: rank.kill()
    assert run.status["step"] == 0 and not list(run.checkpoint_folder.glob("step-*"))


@pytest.mark.slow
def test_time_limit_of_a_launch(corpus, tmp_path, capsys):
    "It counts from the launch, and the run can be taken up. The bar shows loss and bits."
    config = endless(corpus, nproc=1, time_limit_minutes=1.)
    run = new_run(tmp_path, "limited", config)
    began = time.monotonic()
    result = launch(config, run)
    took = time.monotonic() - began
    if result.step < 4: pytest.skip(f"this machine needed the minute to start: {took:.0f} s")
    assert took < 66
    assert (run.state, result.finished) == ("stopped", False) and result.loss > 0
    assert re.search(r"loss \d\.\d{3}, \d\.\d{3} bits per character", capsys.readouterr().out)
    more = dataclasses.replace(config, steps=result.step + 4, time_limit_minutes=0.)
    assert launch(more, run).step == result.step + 4 and run.state == "finished"


def test_a_signal_stops_a_launch(corpus, tmp_path):
    "A scheduler ends the ranks: the run is stopped, says by what, and goes on when it is launched again."
    config = endless(corpus, steps=4000, nproc=1)
    run = new_run(tmp_path, "signaled", config)
    with signal_to_rank(run, 0, 4, signal.SIGTERM): result = launch(config, run)
    assert run.state == "stopped" and "SIGTERM" in run.status["message"] and result.loss is None
    more = dataclasses.replace(config, steps=result.step + 4)
    assert launch(more, run).step == result.step + 4


def test_what_cannot_start_says_so_at_once(corpus, tmp_path):
    config = endless(corpus, init="nowhere")
    run = new_run(tmp_path, "bad", config)
    with pytest.raises(SentnbError, match="^there is no model 'nowhere'"): launch(config, run)
    assert not (run.log_folder / "torchrun.log").exists()


def agent(run, port, log):
    "torchrun for one of two nodes, one process each."
    command = [sys.executable, "-m", "torch.distributed.run",
               "--nnodes=2", "--nproc-per-node=1", "--max-restarts=0", "--local-addr=127.0.0.1",
               f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-backend=c10d", "--rdzv-id=two",
               "--rdzv-conf=join_timeout=60,last_call_timeout=1,timeout=20",
               "-m", "sentnb.training.pretrain", str(run.checkpoint_folder / "params.yaml")]
    return subprocess.Popen(command, env=child_env(SENTNB_RUN=str(run.folder.resolve())),
                            stdout=open(log, "w"), stderr=subprocess.STDOUT, start_new_session=True)


def rank_of(agent, run):
    "Process id of the rank that an agent started."
    def parent(pid): return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
    return next(pid for pid in processes_of(run).values() if parent(pid) == str(agent.pid))


@pytest.mark.slow
@pytest.mark.parametrize("whole_node", [False, True])
def test_two_nodes(corpus, tmp_path, whole_node):
    """Two agents on one machine. The one without the rendezvous store is killed, or its rank alone: the other ends in
    bounded time, and both started again finish."""
    config = endless(corpus, steps=120, timeout_seconds=15.)
    run = new_run(tmp_path, "nodes", config)
    write_yaml(run.checkpoint_folder / "params.yaml", dataclasses.asdict(config))
    with socket.create_server(("127.0.0.1", 0)) as s: port = s.getsockname()[1]
    first = agent(run, port, tmp_path / "first.log")
    time.sleep(1)
    second = agent(run, port, tmp_path / "second.log")
    try:
        wait_for(lambda: run.status.get("step", 0) >= 20, 90, "both nodes to train")
        began = time.monotonic()
        os.kill(second.pid if whole_node else rank_of(second, run), signal.SIGKILL)
        first.wait(90)
        second.wait(90)
        assert first.returncode != 0 and not processes_of(run) and time.monotonic() - began < 90
        if not whole_node: assert "SIGKILL" in (tmp_path / "second.log").read_text()
    finally:
        for p in (first, second):
            if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
    agents = [agent(run, port, tmp_path / f"again-{i}.log") for i in range(2)]
    assert [a.wait(120) for a in agents] == [0, 0]
    alone = new_run(tmp_path, "alone", dataclasses.replace(config, nproc=1))
    pretrain(dataclasses.replace(config, nproc=1), alone)
    assert abs(run.metrics("val").loss.iloc[-1] - alone.metrics("val").loss.iloc[-1]) < 1e-4


OVERFLOW = """
import sys
from sentnb.core import from_dict
from sentnb.runs import Run
from sentnb.training.distributed import join_world, leave_world
from sentnb.training.trainer import PretrainConfig, Trainer
run = Run.open(sys.argv[1])
world = join_world("cpu", 60)
trainer = Trainer(from_dict(PretrainConfig, run.params()), run, world)
skips = []
for batch, step in zip(trainer.batches(), range(6)):
    if step == 3 and world.rank == 1: hook = trainer.lm.head.bias.register_hook(lambda g: g * float("inf"))
    if step == 4 and world.rank == 1: hook.remove()
    skips.append(trainer.train_step(batch)[0].skipped)
sums = [p.float().sum().item() for p in trainer.lm.parameters()]
everybody = world.gather((skips, trainer.precision.scaler.scale, sums))
if world.is_main:
    assert everybody[0] == everybody[1], everybody
    print("SKIPS", everybody[0][:2])
leave_world()
"""


@pytest.mark.slow
def test_overflow_on_one_rank_skips_on_all(corpus, tmp_path):
    "A gradient that overflows on one rank costs every rank that step and no other; weights and scales stay equal."
    config = settings(corpus, precision="fp16", nproc=2)
    run = new_run(tmp_path, "overflow", config)
    script = tmp_path / "overflow.py"
    script.write_text(OVERFLOW)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    p = subprocess.run([*command, str(script), str(run.folder)], env=child_env(), capture_output=True, text=True,
                       timeout=120)
    assert p.returncode == 0, p.stderr
    assert f"SKIPS ([False, False, False, True, False, False], {2.**15})" in p.stdout


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_exchange(corpus, tmp_path, precision):
    "Gradients travel in half precision; two processes follow one to its rounding."
    config = settings(corpus, precision=precision, steps=30, eval_every=0)
    one, two = new_run(tmp_path, "one", config), new_run(tmp_path, "two", config)
    pretrain(config, one)
    launch(dataclasses.replace(config, nproc=2), two)
    assert (one.metrics("train").loss - two.metrics("train").loss).abs().max() < 2e-3
