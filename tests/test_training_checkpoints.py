"A process that is killed while it saves, at random moments, never leaves a checkpoint that cannot be used."
import random
import signal
import subprocess
import sys
import time

import pytest
from sentnb.training.checkpoints import CheckpointStore, load_training_state, verify

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
        step = verify(newest)["step"]
        assert before <= step <= begun and step >= begun - 1, "at most the save under way is lost"
        assert load_training_state(newest)["weights"].eq(step).all()
        if step > 1:   # the first may lie there before its pointers do
            assert store.pointed("latest").exists() and store.pointed("best").exists()
        before = step


def test_killed_while_saving(tmp_path): kill_often(tmp_path / "checkpoint", 3, seed=0)


@pytest.mark.slow
def test_killed_while_saving_often(tmp_path): kill_often(tmp_path / "checkpoint", 40, seed=1)
