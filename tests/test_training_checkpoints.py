"""A process that is killed while it saves, at random moments, never leaves a checkpoint that cannot be used; and a
damaged checkpoint or pointer never costs a good one."""
import random
import signal
import subprocess
import sys
import time

import pytest
from sentnb.training.checkpoints import CheckpointStore, load_training_state, verify_checkpoint

SAVER = """
import sys, torch
from sentnb.training.checkpoints import CheckpointStore
store = CheckpointStore(sys.argv[1], keep_checkpoints=2)
begin = (store.steps() or [0])[-1]
for step in range(begin + 1, begin + 10_000):
    weights = torch.full((200_000,), float(step))
    def write(to): torch.save(weights, to/"model.safetensors")
    store.save(step, write, dict(step=step, weights=weights), metric=1/step)
    print(step, flush=True)
"""


def kill_while_saving(folder, pause):
    "Start a saver, let it save for `pause` seconds after its first save, kill it; return the last step it had begun."
    with subprocess.Popen([sys.executable, "-c", SAVER, folder], stdout=subprocess.PIPE, text=True) as p:
        first = int(p.stdout.readline())
        time.sleep(pause)
        p.send_signal(signal.SIGKILL)
        return max([first, *map(int, p.stdout.read().split())])


def kill_often(folder, times, seed):
    rng = random.Random(seed)
    before = 0
    for _ in range(times):
        begun = kill_while_saving(folder, rng.uniform(0, .15))
        store = CheckpointStore(folder)
        newest = store.newest()
        if newest is None:
            assert begun == 1
            continue
        step = verify_checkpoint(newest)["step"]
        assert before <= step <= begun and step >= begun - 1, "at most the save under way is lost"
        assert load_training_state(newest)["weights"].eq(step).all()
        if step > 1:   # the first may lie there before its pointers do
            assert store.pointed("latest").exists() and store.pointed("best").exists()
        before = step


def test_killed_while_saving(tmp_path): kill_often(tmp_path / "checkpoint", 3, seed=0)


@pytest.mark.slow
def test_killed_while_saving_often(tmp_path): kill_often(tmp_path / "checkpoint", 40, seed=1)


def save(store, *steps, metric=None):
    for step in steps: store.save(step, lambda to: (to / "model.safetensors").write_bytes(b"weights"), {}, metric)
    store.wait()


def damage(store, step): (store.at(step) / "model.safetensors").write_bytes(b"wEights")


@pytest.mark.parametrize("keep", [1, 2])
def test_falling_back_keeps_the_good_ones(tmp_path, keep):
    "The highest step is damaged; training goes on from the one before, and what it saves then stays."
    store = CheckpointStore(tmp_path / "checkpoint", keep)
    save(store, 40)
    sixty = CheckpointStore(tmp_path / "checkpoint", 2)
    save(sixty, 60)
    damage(store, 60)
    assert store.newest().name == "step-40"
    save(store, 45)
    assert store.newest() == store.pointed("latest") == store.at(45)
    save(store, 50)
    assert store.newest() == store.pointed("latest") == store.at(50)
    assert store.steps() == [45, 50][-keep:]


def test_damaged_ones_leave_the_count(tmp_path):
    "Of two to keep, one that goes bad later does not push a good one out."
    store = CheckpointStore(tmp_path / "checkpoint", 2)
    save(store, 10, 20)
    damage(store, 20)
    save(store, 30)
    assert store.steps() == [10, 30]


def test_a_damaged_best_is_replaced(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoint", 2)
    save(store, 10, metric=1.)
    save(store, 20, metric=3.)
    save(store, 30, metric=2.)
    assert store.pointed("best") == store.at(10)
    (store.at(10) / "training" / "seal.json").write_text("[1, 2")
    save(store, 40, metric=5.)
    assert store.pointed("best") == store.at(30) and store.steps() == [30, 40]


JUNK = [b"", b"\xff\xfe\x00", b"..", b"/etc", b"step-", b"step-99", b"step-1/training", b"x" * 5000]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_in_the_pointers_does_not_stop_saving(tmp_path, junk):
    store = CheckpointStore(tmp_path / "checkpoint", 1)
    save(store, 1, metric=2.)
    for name in ("latest", "best"): (store.folder / name).write_bytes(junk)
    assert store.pointed("latest") is None and store.pointed("best") is None
    save(store, 2, metric=1.)
    assert store.pointed("latest") == store.pointed("best") == store.newest() == store.at(2)
