"""Recurrent models and the LanguageModel face: properties over random sizes and texts, faults, kernels."""
import importlib.util
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sentnb.core import NotAvailableError, SentnbError
from sentnb.data.cleaning import CLEANERS
from sentnb.data.tokenizers import CharTokenizer
from sentnb.models import acceleration, lm as lm_module, recurrent, weight_files
from sentnb.models.importers import from_sentiment_discovery
from sentnb.models.lm import LanguageModel, LMConfig, open_model
from sentnb.models.recurrent import CELLS, Recurrent, RecurrentLayer, reference_loop

torch.set_num_threads(1)
quick = settings(max_examples=25, deadline=None, derandomize=True)
kinds = st.sampled_from(sorted(CELLS))


def small_lm(seed=0, **changes):
    torch.manual_seed(seed)
    return LanguageModel(LMConfig(**dict(hidden_size=12, embedding_size=5) | changes), CharTokenizer()).eval()


def cell_parameters(layer):
    "A layer's parameters as the reference cells want them."
    names = ("w_x", "w_h", "bias", "w_mx", "w_mh", "bias_n")
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


@quick
@given(kinds, st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 9),
       st.booleans(), st.booleans(), st.booleans())
def test_fast_window_equals_reference(kind, T, B, E, H, dense, with_resets, weight_norm):
    "States and all gradients, in double precision, for any size."
    torch.manual_seed(T * 100 + B * 10 + H)
    layer = RecurrentLayer(kind, E, H, weight_norm).double()
    inputs = torch.randn(T * B if dense else 7, E, dtype=torch.float64, requires_grad=True)
    index = torch.arange(T * B).view(T, B) if dense else torch.randint(7, (T, B))
    state = torch.randn(2, B, H, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(T, B) < .3 if with_resets else None
    fast = layer(inputs, index, tuple(state), reset, dense)
    naive = reference_loop(kind, inputs[index], *state, cell_parameters(layer), reset)
    leaves = [inputs, state, *layer.parameters()]
    weights = [torch.randn_like(naive[0]) for _ in range(2)]
    results = [[*out, *torch.autograd.grad(out, leaves, weights)] for out in (fast, naive)]
    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("routine", ["as chosen", "convolutions"])
def test_single_precision_equals_reference(routine, monkeypatch):
    "At sizes where float32 products may be convolutions, states and gradients are the same, chosen or forced."
    if routine == "convolutions": monkeypatch.setattr(acceleration, "cpu_prefers_convolutions", lambda: True)
    torch.manual_seed(0)
    layer, table = RecurrentLayer("mlstm", 16, 64), torch.randn(40, 16, requires_grad=True)
    assert (acceleration.choose_matmul(layer.w_h, torch.zeros(32, 64)) is acceleration.ConvolutionMatmul
            or routine == "as chosen")
    tokens, zero, reset = torch.randint(40, (5, 32)), torch.zeros(32, 64), torch.rand(5, 32) < .2
    fast = layer(table, tokens, (zero, zero), reset)
    naive = reference_loop("mlstm", table[tokens], zero, zero, cell_parameters(layer), reset)
    leaves = [table, *layer.parameters()]
    results = [[hs, cs, *torch.autograd.grad(hs.square().sum(), leaves)] for hs, cs in (fast, naive)]
    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@quick
@given(kinds, st.integers(1, 2), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_chunked_equals_unchunked(kind, n_layers, chunks, recompute):
    "However a text is cut into windows, outputs and state are the same."
    torch.manual_seed(len(chunks))
    backbone = Recurrent(kind, 3, 4, n_layers, recompute=recompute).double()
    embedding = torch.nn.Embedding(9, 3).double()
    tokens, reset = torch.randint(9, (2, sum(chunks))), torch.rand(2, sum(chunks)) < .2
    whole, after = backbone(tokens, embedding, reset=reset)
    state, outputs = None, []
    for chunk, resets in zip(tokens.split(chunks, 1), reset.split(chunks, 1)):
        y, state = backbone(chunk, embedding, state, resets)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-12)
    for a, b in zip(state, after): torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(CELLS))
def test_recomputed_gradients_equal_kept_ones(kind):
    "With resets, from a table and from dense inputs (the second layer's), for a length that no chunk divides."
    torch.manual_seed(0)
    backbone, embedding = Recurrent(kind, 3, 4, n_layers=2).double(), torch.nn.Embedding(9, 3).double()
    tokens, reset = torch.randint(9, (2, 11)), torch.rand(2, 11) < .2
    results = []
    for recompute in (False, True):
        backbone.recompute = recompute
        out, state = backbone(tokens, embedding, reset=reset)
        loss = out.square().sum() + state[1].sum()
        results.append([out, *state, *torch.autograd.grad(loss, [embedding.weight, *backbone.parameters()])])
    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_kept_graph_gives_the_same_gradients_twice():
    "The backward pass writes over what it kept, unless the graph is asked to stay."
    torch.manual_seed(0)
    backbone, embedding = Recurrent("mlstm", 3, 4).double(), torch.nn.Embedding(9, 3).double()
    loss = backbone(torch.randint(9, (2, 5)), embedding)[0].square().sum()
    first = torch.autograd.grad(loss, list(backbone.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(backbone.parameters()))
    for a, b in zip(first, second): assert torch.equal(a, b)


@pytest.mark.parametrize("kind", sorted(CELLS))
def test_loop_never_looks_at_a_value(kind):
    "On the meta device tensors have no values: anything that makes a GPU wait for the CPU raises there."
    with torch.device("meta"):
        backbone, embedding = Recurrent(kind, 4, 16, n_layers=2), torch.nn.Embedding(20, 4)
        tokens, reset = torch.zeros(32, 5, dtype=torch.int64), torch.zeros(32, 5, dtype=torch.bool)
        out, _ = backbone(tokens, embedding, reset=reset, lengths=torch.zeros(32, dtype=torch.int64))
        out.sum().backward()
    assert out.shape == (32, 5, 16)
    assert backbone.layers[0].bias.grad is not None


@quick
@given(st.lists(st.text(max_size=150), min_size=1, max_size=6), st.integers(1, 4), st.sampled_from(["mlstm", "gru"]))
def test_batching_changes_no_feature_and_no_score(texts, batch_size, kind):
    lm = small_lm(backbone=kind)
    pools = ["last", "max", "min", "mean"]
    together = lm.featurize(texts, pool=pools, batch_size=batch_size)
    alone = [lm.featurize([text], pool=pools) for text in texts]
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    nats, _ = lm.score(texts, batch_size)
    np.testing.assert_allclose(nats, [lm.score([text])[0][0] for text in texts], rtol=1e-5, atol=1e-4)


@quick
@given(st.text(max_size=80), st.sampled_from(sorted(CLEANERS)))
def test_trace_has_one_value_for_each_byte(text, cleaning):
    values = small_lm(cleaning=cleaning).trace(text, [0, 3])
    assert values.shape == (len(text.encode()), 2) and values.dtype == np.float32 and np.isfinite(values).all()


def test_trace_is_the_state_after_each_byte():
    lm = small_lm()
    text = "héllo <br> wörld"
    values = lm.trace(text, [2])[:, 0]
    for end in (1, 3, 7):                                            # prefixes that end with a whole character
        cleaned = "\n " + text.encode()[:end].decode()
        tokens = torch.from_numpy(lm.token_ids(cleaned).astype(np.int64))[None]
        with torch.no_grad(): _, (_, cell) = lm.backbone(tokens, lm.embedding)
        assert abs(values[end - 1] - cell[-1, 0, 2].item()) < 1e-6
    assert (values[7:11] == values[7]).all()                         # ' <br>' keeps the blank's value


def test_memory_does_not_grow_with_the_longest_document(monkeypatch):
    lm = small_lm()
    sizes = []
    states = lm.backbone.states
    def noted(tokens, *rest):
        sizes.append(tokens.numel())
        return states(tokens, *rest)
    monkeypatch.setattr(lm.backbone, "states", noted)
    lm.featurize(["x" * 30_000, "short", "words " * 50], batch_size=2)
    assert max(sizes) <= 2 * lm_module.CHUNK
    assert sum(sizes) < 30_003 + 303 + 2 * lm_module.CHUNK           # and hardly any padding is read


def test_normalized_weights_are_computed_once_for_all_texts():
    lm = small_lm()
    calls = []
    lm.backbone.layers[0].parametrizations.w_h[0].register_forward_hook(lambda *_: calls.append(1))
    lm.featurize(["a" * 500] * 5, batch_size=1)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_learns_in_full_precision_loss(dtype):
    "Loss and cell in float32, gradients in the parameters' precision, near those of float32."
    full = small_lm(hidden_size=32)
    half = small_lm(hidden_size=32).to(dtype)
    tokens = torch.randint(1, 257, (3, 9))
    exact, _ = full.loss(tokens[:, :-1], tokens[:, 1:])
    loss, (hidden, cell) = half.loss(tokens[:, :-1], tokens[:, 1:])
    exact.backward()
    loss.backward()
    assert loss.dtype == torch.float32 and cell.dtype == torch.float32 and hidden.dtype == dtype
    assert abs(loss - exact) < .02
    ours = half.backbone.layers[0].bias.grad
    theirs = full.backbone.layers[0].bias.grad
    assert ours.dtype == dtype and (ours.float() - theirs).norm() < .05 * theirs.norm()


def test_distributed_data_parallel_can_wrap_a_model(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        lm = small_lm()
        tokens = torch.randint(1, 257, (3, 9))
        wrapped = torch.nn.parallel.DistributedDataParallel(lm)
        for _ in range(2):
            total, _ = wrapped(tokens[:, :-1], tokens[:, 1:], mask=torch.ones(3, 8, dtype=torch.bool))
            total.backward()
        assert all(p.grad is not None for p in lm.parameters())
    finally: torch.distributed.destroy_process_group()


@pytest.mark.parametrize("change, says", [
    (lambda f: (f / "config.json").write_text("{"), "config.json of m is damaged"),
    (lambda f: (f / "config.json").unlink(), "m holds no model"),
    (lambda f: (f / "model.safetensors").unlink(), "m has no model.safetensors"),
    (lambda f: (f / "config.json").write_text('{"format_version": 1}'), "m is damaged: 'model' is missing"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "is damaged"),
    (lambda f: CharTokenizer(legacy=True).save(f), "not the one its model was trained with")])
def test_a_damaged_folder_says_so_in_one_sentence(tmp_path, change, says):
    small_lm().save(tmp_path / "m")
    change(tmp_path / "m")
    with pytest.raises(SentnbError, match=says) as caught: LanguageModel.load(tmp_path / "m", "cpu")
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_best_goes_before_latest(tmp_path):
    for step in (1, 2): small_lm(seed=step).save(tmp_path / f"step-{step}")
    (tmp_path / "latest").write_text("step-2")
    (tmp_path / "best").write_text("step-1")
    assert LanguageModel.load(tmp_path, "cpu").fingerprint == small_lm(seed=1).fingerprint


def test_opening_no_model_where_none_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "released_folder", lambda: tmp_path)
    with pytest.raises(NotAvailableError, match="no model ships with this installation"): open_model()


def test_a_pickle_that_runs_code_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self): return open, (str(tmp_path / "ran"), "w")
    torch.save({"encoder": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SentnbError, match="it was not loaded"): from_sentiment_discovery(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [-3., 3.])
def test_a_clamped_unit_stays_where_it_is_held(value):
    "After every token of a clamped text the model goes on from the value that was written."
    lm = small_lm()
    states = []
    forward = lm.backbone.forward
    def noted(tokens, embedding, state=None, reset=None):
        states.append(state)
        return forward(tokens, embedding, state, reset)
    lm.backbone.forward = noted
    lm.generate("a", n=5, clamp={4: value})
    assert [cell[-1, 0, 4].item() for _, cell in states[1:]] == [value] * 4


@pytest.mark.skipif(importlib.util.find_spec("triton") is None,
                    reason="Triton is not installed: its kernels cannot be interpreted")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")
@pytest.mark.parametrize("with_resets", [False, True])
def test_fused_kernels_in_tritons_interpreter(with_resets, monkeypatch):
    "A window of fused steps equals one of plain steps."
    if os.environ.get("TRITON_INTERPRET") != "1": pytest.skip("set TRITON_INTERPRET=1 before Triton is first imported")
    from sentnb.models import kernels
    torch.manual_seed(0)
    layer, table, index = RecurrentLayer("mlstm", 4, 300), torch.randn(7, 4), torch.randint(7, (3, 2))
    reset = torch.tensor([[False, False], [True, False], [False, False]]) if with_resets else None
    zero, results = torch.zeros(2, 300), []
    for steps in (recurrent.TORCH_STEPS, kernels):
        monkeypatch.setattr(recurrent, "elementwise_steps", lambda like: steps)
        hs, cs = layer(table, index, (zero, zero), reset)
        loss = hs.square().sum() + cs.sum()
        results.append([hs, cs, *torch.autograd.grad(loss, list(layer.parameters()))])
    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", sorted(CELLS))
def test_a_gpu_says_what_the_cpu_says(kind):
    "Outputs, state and gradients in float32, with fused kernels where Triton is installed."
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        backbone, embedding = Recurrent(kind, 16, 64), torch.nn.Embedding(257, 16)
        tokens, reset = torch.randint(257, (32, 20)), torch.rand(32, 20) < .1
        backbone, embedding = backbone.to(device), embedding.to(device)
        out, state = backbone(tokens.to(device), embedding, reset=reset.to(device))
        gradients = torch.autograd.grad(out.square().sum(), [embedding.weight, *backbone.parameters()])
        results.append([x.cpu() for x in (out, *state, *gradients)])
    for a, b in zip(*results): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
