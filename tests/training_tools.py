"What the tests of training share: a small corpus, small settings, and a way to find the processes of a run."
import dataclasses
import os
import time
from pathlib import Path

from sentnb.models.lm import LanguageModel
from sentnb.runs import Run
from sentnb.training.trainer import PretrainConfig


def settings(corpus, **changes):
    tiny = PretrainConfig(data=str(corpus), embedding_size=8, hidden_size=32, batch_size=8, seq_len=16,
                          docs_per_shard=5, steps=40, lr=1e-2, schedule_steps=0, precision="fp32",
                          log_every=5, eval_every=20, save_every=10, device="cpu", nproc=1)
    return dataclasses.replace(tiny, **changes)


def new_run(root, name, config): return Run.create("pretrain", dataclasses.asdict(config), name, root)


def child_env(**more): return os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[1])) | more


def environment_of(pid):
    "The environment of a living process (Linux); empty if it is gone or somebody else's."
    try: entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError: return {}
    return dict(e.split("=", 1) for e in entries if "=" in e)


def processes_of(run):
    "{rank: pid} of the living processes that train in `run`'s folder (Linux)."
    folder = str(run.folder.resolve())
    found = {}
    for p in Path("/proc").glob("[0-9]*"):
        env = environment_of(p.name)
        if env.get("SENTNB_RUN") == folder and "RANK" in env: found[int(env["RANK"])] = int(p.name)
    return found


def wait_for(condition, seconds=60, what="the condition"):
    "Poll until `condition` holds."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(.02)


def same_weights(a, b, step):
    "Are the models of two runs equal to the last bit?"
    first, second = (LanguageModel.load(r.checkpoint_folder / f"step-{step}", device="cpu") for r in (a, b))
    return all(x.equal(y) for x, y in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def curve(run, split="train"):
    "The measurements of a run, without those of time."
    return run.metrics(split).drop(columns=["characters_per_second", "characters_per_second_per_device"]).to_dict()


def same_curves(a, b):
    return all(curve(a, split) == curve(b, split) for split in ("train", "val"))
