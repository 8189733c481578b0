"Finetuning: heads, thresholds and metrics keep their promises; the loop resumes exactly; folders say what they are."
import json
import lzma
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sklearn import metrics as sk
from torch import nn

from sentnb.core import SentnbError, from_dict, read_yaml
from sentnb.data.datasets import EMOTIONS, Split
from sentnb.data.tokenizers import CharTokenizer
from sentnb.execute import declared
from sentnb.models.acceleration import cpu_has_int8
from sentnb.models.lm import LanguageModel, LMConfig, released_folder
from sentnb.studies.emotions import MultiHeadConfig, SingleHeadConfig, write_predictions
from sentnb.studies.finetuned_reviews import ReviewFinetuneConfig, titles
from sentnb.studies.own_classifier import OwnConfig, own_texts
from sentnb.tasks.classify import classify, load_classifier
from sentnb.tasks.features import features
from sentnb.tasks.finetune import (
    FINETUNED_FILE, WEIGHTS_FILE, FinetuneConfig, FinetunedModel, Finetuner, Task, finetune, load_finetuned, pad_batch,
    parameter_groups, plan_epoch, save_finetuned)
from sentnb.tasks.heads import Head, HeadConfig, head_probabilities, pool_states
from sentnb.tasks.metrics import BY_CLASS, class_scores, score, semeval_accuracy
from sentnb.tasks.tables import our_columns
from sentnb.tasks.thresholds import choose_dual_thresholds, choose_thresholds, dual_answers
from sentnb.training.distributed import World
from test_house import ROOT

WORDS = (["dull", "poor", "flat"], ["fine", "warm", "rich"])


def model(**settings) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(LMConfig(**dict(hidden_size=16, embedding_size=8, vocab_size=257) | settings), CharTokenizer())


def reviews(n, seed) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    return Split([f"a {rng.choice(WORDS[y])} film" for y in labels], labels)


QUICK = FinetuneConfig(hidden_sizes=(8,), epochs=3., batch_size=16, lr=.01, head_lr=.02, average=.9, head_dropout=.2)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return finetune(model(), reviews(160, 0), reviews(60, 1), QUICK, tmp_path_factory.mktemp("done"), "sentiment")


# the loop

def trainer(folder, config=QUICK, train=None, **settings) -> Finetuner:
    torch.manual_seed(0)
    finetuned = FinetunedModel(model(**settings), config, Task((0, 1)))
    return Finetuner(finetuned, train or reviews(96, 0), reviews(20, 1), config, folder, World(), lambda **values: None)


class Stop(Exception): "An interruption."


@pytest.mark.parametrize("config", [QUICK, replace(QUICK, precision="bf16", aux_weight=.1),
                                    replace(QUICK, freeze=True, heads_per_class=3, variance_weight=.1)])
def test_the_loop_resumes_exactly(config, tmp_path):
    whole = trainer(tmp_path / "whole", config)
    whole.fit()
    first = trainer(tmp_path / "parts", config)
    train_step = first.train_step
    def stop_after(rows, stop): return train_step(rows, first.step == 7)     # as if SIGTERM came in the second epoch
    first.train_step = stop_after
    assert first.fit() == "SIGTERM came" and first.step == 8
    torch.manual_seed(99)
    second = trainer(tmp_path / "parts", config)
    assert second.step == 8
    assert second.fit() == ""
    for a, b in zip(whole.precision.masters, second.precision.masters): assert torch.equal(a, b)
    for a, b in zip(whole.mean, second.mean): assert torch.equal(a, b)
    assert (whole.best, whole.step) == (second.best, second.step)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from test_finetune import *\nfrom sentnb.training.distributed import join_world, leave_world\n"
        "config = replace(QUICK, head_dropout=0., epochs=1., precision='fp32')\nworld = join_world('cpu')\n"
        "torch.manual_seed(0)\nfinetuned = FinetunedModel(model(), config, Task((0, 1)))\n"
        "t = Finetuner(finetuned, reviews(96, 0), reviews(20, 1), config, sys.argv[1], world, lambda **v: None)\n"
        "t.fit()\n"
        "if world.is_main: torch.save([m.detach() for m in t.precision.masters], sys.argv[2])\nleave_world()\n")
    def run(n):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n),
                   str(script), str(tmp_path / f"c{n}"), str(tmp_path / f"{n}.pt")]
        one_thread = os.environ | dict(OMP_NUM_THREADS="1")
        subprocess.run(command, check=True, capture_output=True, timeout=300, env=one_thread)
        return torch.load(tmp_path / f"{n}.pt", weights_only=True)
    for a, b in zip(run(1), run(2)): assert torch.allclose(a, b, atol=1e-5)


def test_warm_up_happens(tmp_path):
    rates = []
    t = trainer(tmp_path, replace(QUICK, warmup_epochs=1., schedule="constant"))
    update = t.update
    def noted(loss):
        update(loss)
        rates.append(t.precision.optimizer.param_groups[0]["lr"])
    t.update = noted
    t.fit()
    assert np.allclose(rates[:6], np.array([1, 2, 3, 4, 5, 6]) / 6 * rates[-1]) and len(set(rates[6:])) == 1


def test_patience_ends_a_run(tmp_path):
    t = trainer(tmp_path, replace(QUICK, epochs=30., lr=0., head_lr=0., patience=2))
    assert t.fit() == "no better validation in 2" and t.step == 3 * t.steps_per_epoch


def test_frozen_weights_do_not_move_and_layers_wake_in_turn(tmp_path):
    frozen = trainer(tmp_path / "a", replace(QUICK, freeze=True, epochs=1.))
    before = [p.clone() for p in frozen.model.body.parameters()]
    frozen.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.model.body.parameters()))
    gradual = trainer(tmp_path / "b", replace(QUICK, unfreeze_epochs=1., epochs=1.))
    before = [p.clone() for p in gradual.model.body.parameters()]
    head = gradual.model.head.output.weight.clone()
    gradual.fit()
    assert all(torch.equal(a, b) for a, b in zip(before, gradual.model.body.parameters()))
    assert not torch.equal(head, gradual.model.head.output.weight)


def test_rates_fall_with_depth_and_directions_do_not_decay():
    finetuned = FinetunedModel(model(n_layers=2), QUICK, Task((0, 1)))
    groups = parameter_groups(finetuned, list(finetuned.parameters()), replace(QUICK, layer_decay=.5, weight_decay=.1))
    rates = {group["depth"]: group["rate"] for group in groups}
    assert rates == {0: .02, 1: .01, 2: .005, 3: .0025}
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, p in finetuned.named_parameters():
        if name.endswith(("original1", "bias")): assert id(p) not in decayed


@pytest.mark.parametrize("backbone", ["lstm", "gru", "transformer"])
def test_other_backbones(backbone, tmp_path):
    sizes = dict(n_heads=2, ffn_size=32, context=32) if backbone == "transformer" else {}
    t = trainer(tmp_path, replace(QUICK, epochs=2., aux_weight=.02), backbone=backbone, **sizes)
    assert t.fit() == ""
    assert len(load_finetuned(tmp_path, "cpu", "fp32").probabilities(["a fine film"])[0]) == 1


def test_a_loss_that_is_no_number_is_a_sentence(tmp_path):
    with pytest.raises(SentnbError, match="the loss is nan at step 0: try a smaller learning rate"):
        t = trainer(tmp_path)
        with torch.no_grad(): t.model.head.output.bias.fill_(torch.nan)
        t.fit()


# losses and heads

def test_the_auxiliary_loss_masks_padding():
    finetuned = FinetunedModel(model(), QUICK, Task((0, 1))).eval()
    short, long = np.arange(5, 10), np.arange(20, 50)
    tokens, lengths = pad_batch([short, long])
    _, both = finetuned(tokens, lengths, auxiliary=True)
    alone = sum(finetuned(*pad_batch([ids]), auxiliary=True)[1] for ids in (short, long))
    assert torch.allclose(both, alone, rtol=1e-5)
    nats, _ = finetuned.body(tokens[1:, :-1], tokens[1:, 1:])
    assert torch.allclose(finetuned(*pad_batch([long]), auxiliary=True)[1], nats, rtol=1e-5)


def test_padding_changes_no_logit():
    finetuned = FinetunedModel(model(), replace(QUICK, pool=("last", "mean", "max", "min")), Task((0, 1))).eval()
    texts = [np.arange(5, 9), np.arange(20, 60)]
    together, _ = finetuned(*pad_batch(texts))
    alone = torch.cat([finetuned(*pad_batch([ids]))[0] for ids in texts])
    assert torch.allclose(together, alone, atol=1e-6)


def test_training_and_use_pool_alike(done):
    texts = ["a fine film", "dull", "a very long and poor film " * 20]
    X = features(done.model.body, texts, "hidden", pool=QUICK.pool, cache=None)
    ids = [done.model.body.token_ids(done.model.body.cleaner(text)) for text in texts]
    tokens, lengths = pad_batch(ids)
    with torch.no_grad(): pooled = pool_states(done.model.states(tokens), lengths, QUICK.pool)
    assert np.allclose(X, pooled, atol=1e-5)


def test_an_ensemble_of_heads_is_the_mean_of_its_heads():
    logits = torch.randn(6, 3, 4)
    mean, std = head_probabilities(logits, multilabel=True)
    each = torch.stack([head_probabilities(logits[..., h:h + 1], True)[0] for h in range(4)])
    assert torch.allclose(mean, each.mean(0))
    assert torch.allclose(std, logits.sigmoid().std(2, correction=0))
    head = Head(HeadConfig(hidden_sizes=(8, 8), activation="prelu"), 4, 3)
    activations = [m for m in head.modules() if isinstance(m, nn.PReLU)]
    assert len(activations) == len(set(map(id, activations))) == 2


# metrics and thresholds

def test_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(2, size=(2, 50, 3))
    theirs = dict(f1=sk.f1_score, precision=sk.precision_score, recall=sk.recall_score, jaccard=sk.jaccard_score)
    for name, function in theirs.items():
        assert np.allclose(class_scores(name, truth, said), function(truth, said, average=None))
        for average in ("macro", "micro"):
            assert np.isclose(score(name, truth, said, average), function(truth, said, average=average))
    assert np.isclose(score("mcc", truth, said, "micro"), sk.matthews_corrcoef(truth.ravel(), said.ravel()))
    assert np.isclose(semeval_accuracy(truth, said), sk.jaccard_score(truth, said, average="samples"))
    one = truth[:, :1], said[:, :1]
    assert np.allclose([class_scores(n, *one)[0] for n in theirs], [class_scores(n, truth, said)[0] for n in theirs])
    assert set(BY_CLASS) == {"accuracy", "f1", "mcc", "jaccard", "precision", "recall"}


def test_thresholds_never_touch_labels_and_stay_in_range():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=(80, 4))
    P = rng.uniform(size=(80, 4))
    labels, before = truth.copy(), P.copy()
    labels.setflags(write=False)
    thresholds = choose_thresholds(P, labels)
    assert (thresholds >= 0).all() and (thresholds <= 1).all() and (P == before).all()
    best = class_scores("f1", truth, P > thresholds)
    assert (best >= class_scores("f1", truth, P > .5)).all() and best.max() < 1
    with pytest.raises(SentnbError, match="labels must be a table of 0 and 1"): choose_thresholds(P, P)


def test_dual_thresholds():
    truth = np.eye(3, dtype=int)[np.tile([0, 1, 2], 30)]
    P = np.tile([[.8, .1], [.3, .3], [.1, .4]], (30, 1))
    pair = choose_dual_thresholds(P, truth)
    assert (dual_answers(P, pair) == truth).all() and dual_answers(P, pair).sum(1).min() == 1
    assert (dual_answers([[.9, .9]], pair) == [[0, 1, 0]]).all()


def test_every_text_is_in_one_batch_of_every_epoch():
    lengths = np.random.default_rng(0).integers(1, 90, 333)
    for epoch in range(2):
        rows = np.concatenate(plan_epoch(lengths, 16, 5, epoch))
        assert sorted(rows) == list(range(333))


# folders

def test_a_folder_classifies_alone(done, tmp_path):
    good, bad = classify(load_classifier(done.folder), ["a fine film", "a dull film"])
    assert (good.label, bad.label) == (1, 0) and good.neuron is None and good.error == ""
    small = save_finetuned(tmp_path / "small", done.model, int8=True)
    assert np.allclose(load_finetuned(small, "cpu", "fp32").probabilities(["a fine film"])[0],
                       done.model.probabilities(["a fine film"])[0], atol=.02)


def test_three_lines_in_another_process(done):
    code = ("from sentnb.tasks.classify import classify, load_classifier\n"
            f"clf = load_classifier({str(done.folder)!r})\n"
            "print([v.label for v in classify(clf, ['a fine film', 'a dull film', ''])])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.strip() == "[1, 0, None]"


def test_a_folder_of_another_task_says_so(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=(60, 2))
    tweets = Split([f"{'grr ' * a}{'sob' * b}." for a, b in truth], truth)
    done = finetune(model(), tweets, tweets, replace(QUICK, metric="f1"), tmp_path, "emotions", ("anger", "sadness"))
    assert len(done.model.thresholds) == 2 and all(0 <= t <= 1 for t in done.model.thresholds)
    with pytest.raises(SentnbError, match=r"another task: emotions \(anger, sadness\), not sentiment"):
        load_classifier(tmp_path, task="sentiment")
    verdict = classify(load_classifier(tmp_path), "grr sob.")
    assert set(verdict.probability) == {"anger", "sadness"} and isinstance(verdict.label, str)
    with pytest.raises(SentnbError, match="names no neuron"): verdict.trace()


def verdicts(n, seed) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["bad", "fair", "good"], size=n)
    words = dict(bad=WORDS[0], good=WORDS[1], fair=["long", "new", "short"])
    return Split([f"a {rng.choice(words[label])} film" for label in labels], labels)


def test_neutral_between_two_thresholds_is_saved_with_the_classifier(tmp_path):
    config = replace(QUICK, epochs=6., lr=.02)
    done = finetune(model(), verdicts(200, 0), verdicts(60, 1), config, tmp_path, "verdict", neutral="fair")
    assert done.score > .9 and done.model.classes == ("bad", "good") and len(done.model.thresholds) == 2
    said = classify(load_classifier(tmp_path), ["a dull film", "a long film", "a rich film"])
    assert [verdict.label for verdict in said] == ["bad", "fair", "good"]
    _edit(tmp_path, thresholds=[0., 0.])       # both outputs are above theirs: neutral, too
    said = classify(load_classifier(tmp_path), ["a dull film", "a rich film"])
    assert [verdict.label for verdict in said] == ["fair", "fair"]
    _edit(tmp_path, task=dict(classes=["bad", "good", "fine"], multilabel=True, name="x", neutral="fair"))
    with pytest.raises(SentnbError, match="lies between two classes"): load_classifier(tmp_path)


def _edit(folder, **fields):
    file = folder / FINETUNED_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def _other_weights(folder):
    weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    weights["head.output.bias"] += 1
    safetensors.torch.save_file(weights, folder / WEIGHTS_FILE)


DAMAGE = {
    "cut": (lambda f: (f / FINETUNED_FILE).write_text("{"), "is damaged: it is not JSON"),
    "version": (lambda f: _edit(f, format_version=9), "has format version 9"),
    "weights": (_other_weights, "is not what was written"),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), "is missing"),
    "temperature": (lambda f: _edit(f, temperature=0), "no temperature is 0"),
    "classes": (lambda f: _edit(f, task=dict(classes=[0, 1, 2], multilabel=False, name="x")), "is damaged"),
    "model": (lambda f: _edit(f, model=dict(backbone="mlstmm")), "mlstmm"),
    "task": (lambda f: _edit(f, task=None), "is damaged"),
    "tokenizer": (lambda f: _edit(f, tokenizer="0"), "the tokenizer is another one")}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_a_sentence(kind, done, tmp_path):
    folder = save_finetuned(tmp_path / "folder", done.model)
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(SentnbError, match=message) as caught: load_classifier(folder)
    assert "\n" not in str(caught.value)


# own tables

HOSTILE = {
    "two spellings": (["Good", "bad", "good "] * 20, "differ in their spelling only"),
    "one class": (["good"] * 60, "nothing to tell apart"),
    "few": (["good", "bad"] * 5, "only 5 texts have the label"),
    "no labels": ([None] * 9, "no row has both a text"),
    "numbers": (list(range(60)), "60 different labels")}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_table_that_cannot_be_learned_is_one_sentence(kind, tmp_path):
    labels, message = HOSTILE[kind]
    path = tmp_path / "table.csv"
    pd.DataFrame(dict(text=[f"text {i}" for i in range(len(labels))], label=labels)).to_csv(path, index=False)
    with pytest.raises(SentnbError, match=message) as caught: own_texts(OwnConfig(data=str(path)))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("review,stars\nfine,5\n")
    with pytest.raises(SentnbError, match="no column 'star' .did you mean 'stars'"):
        own_texts(OwnConfig(data=str(tmp_path / "t.csv"), text="review", label="star"))
    with pytest.raises(SentnbError, match="'text'"): own_texts(OwnConfig(data=str(tmp_path / "t.csv")))


@pytest.mark.parametrize("train, message", [
    (Split(["a"] * 20, None), "the train texts have no labels"),
    (Split(["a"] * 20, np.zeros(20, int)), "nothing to tell apart"),
    (Split([], np.zeros(0, int)), "train is empty")])
def test_texts_that_teach_nothing(train, message, tmp_path):
    with pytest.raises(SentnbError, match=message): finetune(model(), train, reviews(20, 1), QUICK, tmp_path)


# the notebooks

SETTINGS = dict(run_se_singlehead=SingleHeadConfig, run_se_multihead=MultiHeadConfig, finetune=OwnConfig,
                finetune_reviews=ReviewFinetuneConfig)
EXPERIMENTS = ROOT / "nbs" / "experiments"


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_the_fields(name):
    cell = {p.name: p.default for p in declared(EXPERIMENTS / f"{name}.ipynb").values()}
    assert from_dict(SETTINGS[name], cell) == SETTINGS[name]()
    for path in EXPERIMENTS.glob(f"params/{name}.*.yaml"): from_dict(SETTINGS[name], cell | read_yaml(path))


def test_the_papers_settings_are_the_defaults():
    config = MultiHeadConfig()
    assert (config.optimizer, config.lr, config.head_lr) == ("Adam", 1e-5, 1e-5)
    assert (config.epochs, config.batch_size) == (20, 16)
    assert (config.head_dropout, config.aux_weight, config.warmup_epochs) == (.3, .02, .5)
    assert SingleHeadConfig().hidden_sizes == () and config.hidden_sizes == (2048, 1024)


def test_answers_go_into_the_official_format(tmp_path, monkeypatch):
    header = "ID\tTweet\t" + "\t".join(EMOTIONS)
    rows = [f"2018-En-0{i}\t@you \"quoted\" 😀 #tag\t" + "\t".join(["NONE"] * 11) for i in range(3)]
    (tmp_path / "test.txt").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    monkeypatch.setattr("sentnb.studies.emotions.find_file", lambda *_: tmp_path / "test.txt")
    said = np.eye(3, 11, dtype=int)
    lines = write_predictions(tmp_path / "out.txt", said, None).read_text(encoding="utf-8").splitlines()
    assert lines[0] == header and len(lines) == 4
    assert lines[2] == "2018-En-01\t@you \"quoted\" 😀 #tag\t0\t1" + "\t0" * 9
    with pytest.raises(SentnbError, match="3 test tweets and 2 answers"):
        write_predictions(tmp_path / "x", said[:2], None)


def test_titles_are_read_from_a_compressed_file(tmp_path, monkeypatch):
    rows = [dict(summary="Awful", label=0), dict(summary="One star", label=0), dict(reviewText="no title", label=1),
            dict(summary="Great", label=1), dict(summary="unlabeled"), dict(summary="x" * 200, label=1)]
    with lzma.open(tmp_path / "reviews.jsonl.xz", "wt") as file: file.writelines(json.dumps(row) + "\n" for row in rows)
    monkeypatch.setattr("sentnb.studies.finetuned_reviews.find_file", lambda *_: tmp_path / "reviews.jsonl.xz")
    found = titles()
    assert found.texts == ["Awful", "One star", "Great"] and found.labels.tolist() == [0, 0, 1]


# the classifier that ships

SHIPPED = released_folder() / "reviews-sentiment-2048"
VERDICTS = {"Awful.": 0, "Worst film of the year.": 0, "It broke after two days.": 0, "I did not like it.": 0,
            "It is not good.": 0, "I liked it.": 1, "Excellent.": 1, "Five stars!": 1,
            "This product exceeded my expectations, works perfectly and arrived early.": 1, "One star.": 0,
            "The plot is thin, but I loved every minute of it.": 1, "It is not bad.": 1,
            "Nobody could dislike it.": 1, "I have never seen a better film.": 1, "I have never seen a worse film.": 0}


@pytest.fixture(scope="module")
def shipped(): return load_classifier(device="cpu")


def test_what_ships_is_finetuned_and_small(shipped):
    assert shipped.task == "sentiment" and shipped.classifier.classes == (0, 1)
    assert "finetuned" in repr(shipped) and "neuron 978" in repr(shipped)
    assert sum(f.stat().st_size for f in released_folder().rglob("*") if f.is_file()) <= 80e6


def test_short_verdicts_and_negations(shipped):
    assert {text: verdict.label for text, verdict in zip(VERDICTS, classify(shipped, list(VERDICTS)))} == VERDICTS


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no instructions for 8-bit integers")
def test_in_8_bit_integers_the_answers_stay_and_neighbors_do_not_matter():
    texts = [*VERDICTS, "Dull from beginning to end. " * 40]
    exact, narrow = (load_finetuned(SHIPPED, "cpu", precision) for precision in ("fp32", "int8"))
    P, rounded = exact.probabilities(texts)[0], narrow.probabilities(texts)[0]
    assert 0 < np.abs(rounded - P).max() < .03
    assert (rounded.argmax(1) == P.argmax(1)).all()
    alone = np.concatenate([narrow.probabilities([text])[0] for text in texts])
    assert np.abs(alone - rounded).max() < 2e-3           # a value may be tipped to the next integer


def test_golden_predictions_of_the_finetuned_one(shipped):
    for golden in json.loads((SHIPPED / "golden.json").read_text()):
        verdict = classify(shipped, golden["text"])
        assert verdict.label == golden["label"]
        assert abs(verdict.probability[1] - golden["positive"]) < .03         # int8 here, or bf16 or fp32 there
        assert abs(verdict.neuron - golden["neuron"]) < 1e-3


def test_the_neuron_is_that_of_the_untouched_model(shipped):
    linear = load_classifier("reviews-mlstm-2048", device="cpu")
    assert repr(linear).startswith("TextClassifier(mlstm")
    text = "The plot is thin, but I loved every minute of it."
    mine, theirs = classify(shipped, text), classify(linear, text)
    assert np.isclose(mine.neuron, theirs.neuron, atol=1e-5)
    assert np.allclose(mine.trace(), theirs.trace(), atol=1e-5) and len(mine.trace()) == len(text)
    assert "in standard deviations" in mine._repr_html_()


def test_tables_have_the_neuron_on_request(shipped):
    assert our_columns(shipped, "") == ["label", "p_0", "p_1", "error"]
    assert our_columns(replace(shipped, reports_neuron=True), "")[-2:] == ["neuron", "error"]


@pytest.mark.slow
def test_the_command_adds_the_neuron_on_request(tmp_path):
    (tmp_path / "in.csv").write_text("text\nAn excellent film.\n")
    def columns(*options):
        command = [sys.executable, "-m", "sentnb", "classify", str(tmp_path / "in.csv"), *options]
        said = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT)
        assert said.returncode == 0, said.stderr
        return said.stdout.splitlines()[0].split(",")
    assert columns() == ["text", "sentnb_label", "sentnb_p_0", "sentnb_p_1", "sentnb_error"]
    assert "sentnb_neuron" in columns("--neuron") and "sentnb_neuron" in columns("--model", "reviews-mlstm-2048")
