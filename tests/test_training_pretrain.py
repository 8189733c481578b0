"A training run that is killed or stopped at random moments and started again gives the same weights and log."
import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sentnb.core import SentnbError
from sentnb.data.token_files import TokenFile, example_corpus, write_manifest
from sentnb.data.tokenizers import SentencePieceTokenizer
from sentnb.runs import Run
from sentnb.training.distributed import World
from sentnb.training.pretrain import pretrain
from sentnb.training.trainer import Trainer, open_split, open_stream
from training_tools import child_env, curve, new_run, same_curves, same_weights, settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory): return example_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(autouse=True, scope="module")
def one_thread(): torch.set_num_threads(1)


KINDS = dict(
    fp16=dict(precision="fp16"),
    bf16_cpu_masters=dict(precision="bf16", master_device="cpu"),
    dropout=dict(n_layers=2, dropout=.3, backbone="lstm"),
    gru_sgd=dict(backbone="gru", optimizer="SGD", lr=.1, clip=1., schedule="cosine", warmup=5, tied=True),
    transformer=dict(backbone="transformer", hidden_size=16, embedding_size=16, n_layers=2, n_heads=2, ffn_size=32,
                     dropout=.1))


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_is_the_same(corpus, tmp_path, kind):
    config = settings(corpus, steps=24, eval_every=12, save_every=4, **KINDS[kind])
    straight, broken = (new_run(tmp_path, name, config) for name in ("straight", "broken"))
    pretrain(config, straight)
    trainer = Trainer(config, broken, World())
    trainer.validate = lambda: 1/0
    with pytest.raises(ZeroDivisionError): trainer.fit()
    trainer.store.wait()
    assert trainer.store.steps()[-1] == 8
    pretrain(config, broken)
    assert same_weights(straight, broken, 24) and same_curves(straight, broken)


def test_one_epoch_more(corpus, tmp_path):
    "Without `steps` the epochs decide, and the stream goes on into the second."
    config = settings(corpus, steps=0, epochs=2., log_every=10, eval_every=0)
    run = new_run(tmp_path, "epochs", config)
    result = pretrain(config, run)
    other = Trainer(dataclasses.replace(config, seed=1), new_run(tmp_path, "other", config), World())
    assert abs(result.step - 2 * len(other.stream)) <= 2 and run.metrics("train").epoch.iloc[-1] >= 1


def test_other_settings_are_refused(corpus, tmp_path):
    config = settings(corpus, steps=4, eval_every=0)
    run = new_run(tmp_path, "one", config)
    pretrain(config, run)
    wider = dataclasses.replace(config, hidden_size=16)
    fewer_rows = dataclasses.replace(config, batch_size=4)
    with pytest.raises(SentnbError, match="other settings"): Trainer(wider, run, World())
    with pytest.raises(SentnbError, match="batch_size was 8"): Trainer(fewer_rows, run, World())


@pytest.mark.parametrize("name, value", [("batch_size", 10**23), ("seq_len", 10**23), ("docs_per_shard", 10**23),
                                         ("nproc", 10**9), ("hidden_size", 10**9), ("n_layers", 10**9)])
def test_settings_without_end_are_refused(corpus, tmp_path, name, value):
    "Before anything of that size is made, and the sentence names the setting."
    with pytest.raises(SentnbError, match=f"{name} can be .* at most"):
        config = settings(corpus, **{"steps": 1, name: value})
        pretrain(config, new_run(tmp_path, "huge", config))


def test_a_batch_without_end_is_refused(corpus, tmp_path):
    config = settings(corpus, steps=1, batch_size=2**20, seq_len=2**20)
    run = new_run(tmp_path, "huge", config)
    with pytest.raises(SentnbError, match="batch_size times seq_len"): pretrain(config, run)


def test_stopped_in_time_and_taken_up(corpus, tmp_path):
    "A run that its time limit stopped goes on where it was, and a run with more steps goes on where it ended."
    config = settings(corpus, steps=400, eval_every=0, save_every=0, schedule="constant")
    straight, stopped = (new_run(tmp_path, name, config) for name in ("straight", "stopped"))
    limited = dataclasses.replace(config, time_limit_minutes=1/60)
    result = pretrain(limited, stopped)
    assert stopped.state == "stopped" and not result.finished and 0 < result.step < 400 and result.loss is not None
    assert "time limit" in stopped.status["message"]
    fewer = dataclasses.replace(config, steps=result.step + 20)
    assert pretrain(fewer, stopped).finished and stopped.state == "finished"
    pretrain(config, stopped)
    pretrain(config, straight)
    assert same_weights(straight, stopped, 400) and curve(straight) == curve(stopped)
    assert stopped.metrics("val").step.is_unique


@pytest.mark.parametrize("eval_every", [0, 7])
def test_time_limit_holds_on_the_clock(corpus, tmp_path, monkeypatch, eval_every):
    "Nine seconds are nine, although the validation at the end takes three of them."
    forward = Trainer.forward

    def slow(self, *args):
        time.sleep(.05 if torch.is_grad_enabled() else 3 / n_windows)
        return forward(self, *args)
    config = settings(corpus, steps=10**6, time_limit_minutes=.15, eval_every=eval_every, save_every=0)
    n_windows = len(open_stream(config, {s: open_split(config, s) for s in ("train", "val")}, "val", World()))
    monkeypatch.setattr(Trainer, "forward", slow)
    run = new_run(tmp_path, "limited", config)
    began = time.monotonic()
    pretrain(config, run)
    took = time.monotonic() - began
    assert 5 < took < 9.9, took
    assert eval_every or took > 8.1, took


def train_until(trainer, step):
    "As `fit` does, up to the log lines and checkpoints of a step; then the power goes."
    trainer.run.rewind(trainer.step)
    batches = trainer.batches()
    while trainer.step < step: trainer.after_step(trainer.train_step(next(batches))[0])
    trainer.store.wait()


@pytest.mark.parametrize("dies_at", [9, 23, 30], ids=["before the first checkpoint", "between", "after the last save"])
def test_every_row_once(corpus, tmp_path, dies_at):
    config = settings(corpus, steps=30, log_every=2, eval_every=10, save_every=0)
    straight, broken = (new_run(tmp_path, name, config) for name in ("straight", "broken"))
    pretrain(config, straight)
    train_until(Trainer(config, broken, World()), dies_at)
    result = pretrain(config, broken)
    assert result.loss == straight.metrics("val").loss.iloc[-1]
    assert same_weights(straight, broken, 30) and same_curves(straight, broken)


def test_first_weights(corpus, tmp_path):
    "`init` begins where another run ended, on text of its own and with a dropout of its own."
    config = settings(corpus, steps=40, eval_every=0)
    first = new_run(tmp_path, "first", config)
    pretrain(config, first)
    init = str(first.checkpoint_folder / "step-40")
    further = dataclasses.replace(config, init=init, dropout=.1, forget_bias=1., steps=2, lr=1e-9, log_every=1, seed=5)
    second, fresh = new_run(tmp_path, "second", further), new_run(tmp_path, "fresh", further)
    pretrain(further, second)
    pretrain(dataclasses.replace(further, init=""), fresh)
    assert abs(second.metrics("val").loss.iloc[-1] - first.metrics("val").loss.iloc[-1]) < 1e-3
    assert second.metrics("train").loss[0] < .6 * fresh.metrics("train").loss[0]


def test_first_weights_that_do_not_fit(corpus, tmp_path):
    config = settings(corpus, steps=2, eval_every=0)
    run = new_run(tmp_path, "first", config)
    pretrain(config, run)
    further = dataclasses.replace(config, init=str(run.checkpoint_folder))

    other = new_run(tmp_path, "other", further)
    def begin(**changes): Trainer(dataclasses.replace(further, **changes), other, World())
    with pytest.raises(SentnbError, match="pass -p hidden_size 32 -p tied False$"): begin(hidden_size=16, tied=True)
    with pytest.raises(SentnbError, match="there is no model 'nowhere'"): begin(init="nowhere")
    texts = ["one two three four five six"] * 30
    pieces = SentencePieceTokenizer.train(texts, 280, "bpe")
    for split in ("train", "val"): TokenFile.from_texts(texts, pieces).save(tmp_path / "pieces", split)
    write_manifest(tmp_path / "pieces", ["train", "val"], pieces, cleaning="review")
    with pytest.raises(SentnbError, match="trained with another tokenizer than the corpus"):
        begin(data=str(tmp_path / "pieces"))


def interrupt(run, after, sig, rng):
    "Train in another process, send `sig` a moment after step `after` was logged; its exit code and errors."
    command = [sys.executable, "-m", "sentnb.training.pretrain", str(run.folder / "params.yaml")]
    p = subprocess.Popen(command, env=child_env(SENTNB_RUN=str(run.folder)),
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while p.poll() is None and run.status.get("step", 0) < after: time.sleep(.002)
        time.sleep(rng.uniform(0, .05))
        if p.poll() is None: p.send_signal(sig)
        return p.wait(60), p.stderr.read()
    finally:
        p.kill()
        p.stderr.close()


def interrupt_often(corpus, tmp_path, signals, seed, **changes):
    config = settings(corpus, steps=40 * (len(signals) + 1), log_every=2, eval_every=40, save_every=3, **changes)
    straight, broken = (new_run(tmp_path, name, config) for name in ("straight", "broken"))
    pretrain(config, straight)
    rng = random.Random(seed)
    for i, sig in enumerate(signals):
        code, err = interrupt(broken, 20 + 40*i, sig, rng)
        assert code == (0 if sig == signal.SIGTERM else -sig), err
        if sig == signal.SIGTERM: assert broken.state == "stopped" and "SIGTERM" in broken.status["message"]
    assert pretrain(config, broken).step == config.steps
    assert same_weights(straight, broken, config.steps) and same_curves(straight, broken)


def test_killed_and_stopped(corpus, tmp_path):
    interrupt_often(corpus, tmp_path, [signal.SIGKILL, signal.SIGTERM], seed=0)


def test_one_of_two_takes_a_dead_run_over(corpus, tmp_path):
    "The same command twice in the same moment: one trains, and the other ends before it has begun."
    config = settings(corpus, steps=300, eval_every=0, save_every=0, log_every=100)
    create = f"from training_tools import *; new_run({str(tmp_path)!r}, 'dead', {config!r})"
    tests = os.pathsep.join([str(Path(__file__).parent), child_env()["PYTHONPATH"]])
    subprocess.run([sys.executable, "-c", create], env=child_env(PYTHONPATH=tests), check=True)
    run = Run.open(tmp_path / "pretrain" / "dead")
    assert run.state == "died"
    command = [sys.executable, "-m", "sentnb.training.pretrain", str(run.folder / "params.yaml")]
    both = [subprocess.Popen(command, env=child_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)]
    outputs = [p.communicate(timeout=120)[0] for p in both]
    loser, winner = [outputs[i] for i in sorted(range(2), key=lambda i: -both[i].returncode)]
    assert sorted(p.returncode for p in both) == [0, 1], outputs
    assert "finished at step 300" in winner and run.state == "finished"
    assert re.search("run pretrain/dead is (being worked on by process|finished)", loser) and "training:" not in loser
    assert run.metrics("train").step.tolist() == [100, 200, 300]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_killed_often(corpus, tmp_path, precision):
    signals = [signal.SIGKILL] * 10 + [signal.SIGTERM] * 2
    interrupt_often(corpus, tmp_path, signals, seed=1, precision=precision, dropout=.2, n_layers=2)


def test_loss_that_is_not_a_number(corpus, tmp_path):
    "The message names the step, the place in the stream and the last good checkpoint."
    config = settings(corpus, steps=30, save_every=10, eval_every=0)
    trainer = Trainer(config, new_run(tmp_path, "nan", config), World())
    step = trainer.train_step

    def poison(*args):
        if trainer.step == 13: trainer.lm.head.bias.data.fill_(float("nan"))
        return step(*args)
    trainer.train_step = poison
    where = r"loss is nan at step 13, epoch \d+, window \d+ of \d+; the last good checkpoint is step-10"
    with pytest.raises(SentnbError, match=where): trainer.fit()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_recorded_step_computes_what_a_plain_one_does(corpus, tmp_path, precision):
    "On a GPU: the same losses, state and weights after some steps, with and without the CUDA graph."
    config = settings(corpus, hidden_size=96, tied=True, docs_per_shard=1, clip=1., precision=precision, device="cuda")
    results = []
    for recorded in (True, False):
        trainer = Trainer(config, new_run(tmp_path, str(recorded), config), World(device=torch.device("cuda")))
        assert trainer.has_graph
        trainer.has_graph = recorded
        batches = trainer.batches()
        for _ in range(6): trainer.train_step(next(batches))
        results.append([torch.tensor(trainer.meter.nats), *trainer.hidden, *trainer.precision.masters])
    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
