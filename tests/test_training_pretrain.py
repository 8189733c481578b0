"A training run that is killed or stopped at random moments and started again gives the same weights and log."
import dataclasses
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from sentnb.core import SentnbError
from sentnb.training.distributed import World
from sentnb.training.pretrain import pretrain
from sentnb.training.trainer import Trainer
from training_tools import child_env, make_corpus, new_run, same_curves, same_weights, settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory): return make_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


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


def test_time_limit(corpus, tmp_path):
    config = settings(corpus, steps=10**6, time_limit_minutes=.01, eval_every=0, save_every=0)
    run = new_run(tmp_path, "limited", config)
    result = pretrain(config, run)
    assert run.state == "finished" and 0 < result.step < 10**6 and result.loss is not None


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
        if sig == signal.SIGTERM: assert "SIGTERM" in broken.status["message"]
    assert pretrain(config, broken).step == config.steps
    assert same_weights(straight, broken, config.steps) and same_curves(straight, broken)


def test_killed_and_stopped(corpus, tmp_path):
    interrupt_often(corpus, tmp_path, [signal.SIGKILL, signal.SIGTERM], seed=0)


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
