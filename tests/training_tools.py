"What the tests of training share: a small corpus, small settings, and a way to find the processes of a run."
import dataclasses, os, time
from pathlib import Path

import numpy as np
from sentnb.data.token_files import TokenFile, write_manifest
from sentnb.data.tokenizers import CharTokenizer
from sentnb.models.lm import LanguageModel
from sentnb.runs import Run
from sentnb.training.pretrain import PretrainConfig

WORDS = "good bad film very not the plot and dull bright".split()

def make_corpus(folder, n=300):
    rng, tok = np.random.default_rng(0), CharTokenizer()
    texts = ["\n " + " ".join(rng.choice(WORDS, rng.integers(3, 12))) + " " for _ in range(n)]
    for split, part in dict(train=texts[:-40], val=texts[-40:]).items(): TokenFile.from_texts(part, tok).save(folder, split)
    write_manifest(folder, ["train", "val"], tok, cleaning="review")
    return str(folder)

def settings(corpus, **changes):
    tiny = PretrainConfig(data=str(corpus), embedding_size=8, hidden_size=32, batch_size=8, seq_len=16, docs_per_shard=5, steps=40, lr=1e-2,
                          schedule_steps=0, precision="fp32", log_every=5, eval_every=20, save_every=10, device="cpu", nproc=1)
    return dataclasses.replace(tiny, **changes)

def new_run(root, name, config): return Run.create("pretrain", dataclasses.asdict(config), name, root)

def child_env(**more): return os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[1])) | more

def processes_of(run):
    "{rank: pid} of the living processes that train in `run`'s folder (Linux)."
    found = {}
    for p in Path("/proc").glob("[0-9]*"):
        try: env = dict(e.split("=", 1) for e in (p/"environ").read_bytes().decode(errors="replace").split("\0") if "=" in e)
        except OSError: continue
        if env.get("SENTNB_RUN") == str(run.folder.resolve()) and "RANK" in env: found[int(env["RANK"])] = int(p.name)
    return found

def wait_for(condition, seconds=60, what="the condition"):
    "Poll until `condition` holds."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(.02)

def same_weights(a, b, step):
    "Are the models of two runs equal to the last bit?"
    states = [LanguageModel.load(r.checkpoint_folder/f"step-{step}", device="cpu").state_dict() for r in (a, b)]
    return all(x.equal(y) for x, y in zip(states[0].values(), states[1].values(), strict=True))

def curve(run, split="train"):
    "The measurements of a run, without those of time."
    return run.metrics(split).drop(columns=["characters_per_second", "characters_per_second_per_device"]).to_dict()
