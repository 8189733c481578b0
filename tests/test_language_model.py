"The language model in use: how texts begin, what counts as text, generation, damaged models and damaged imports."
import io
import json
import struct
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st

from sentnb.core import SentnbError
from sentnb.data.cleaning import CLEANERS
from sentnb.data.streams import ShardStream
from sentnb.data.token_files import TokenFile
from sentnb.data.tokenizers import CharTokenizer, SentencePieceTokenizer
from sentnb.models.bits import TextBytes, bits_per_byte
from sentnb.models.importers import from_openai, from_sentiment_discovery
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.models.sampling import Edit, decode_aligned

torch.set_num_threads(1)
quick = settings(max_examples=25, deadline=None, derandomize=True)

TEXTS = ["I loved it. Twice!", "", "Bad.", "A <br />longer text, which does not end in one window of the stream. Né?"]
WORDS = "good bad film acting plot boring very".split()


def pieces():
    phrases = [f"\n {a} {b} {c}. " for a in WORDS for b in WORDS for c in WORDS]
    return SentencePieceTokenizer.train(phrases, vocab_size=280)


def small_lm(tokenizer=None, seed=0, **changes):
    torch.manual_seed(seed)
    tokenizer = tokenizer or CharTokenizer()
    sizes = dict(hidden_size=12, embedding_size=8, n_heads=2, ffn_size=16, context=16, max_positions=16)
    return LanguageModel(LMConfig(vocab_size=tokenizer.n_tokens, **sizes | changes), tokenizer).eval()


def stream_of(lm, texts, batch_size=1, seq_len=1000, docs_per_shard=1):
    tokens = TokenFile.from_texts([lm.cleaner(text) for text in texts], lm.tokenizer)
    return ShardStream(tokens, batch_size, seq_len, docs_per_shard=docs_per_shard, shuffle=False)


# where a text begins

@pytest.mark.parametrize("tokenizer", [CharTokenizer, pieces])
def test_a_text_begins_as_in_training(tokenizer):
    "States of a stream after each token of a document are those of featurize, trace and generate."
    lm = small_lm(tokenizer())
    text = "good film, very boring"
    batch = next(iter(stream_of(lm, [text, "bad"])))
    inputs = batch.inputs[0].tolist()
    with torch.no_grad(): values, _ = lm.backbone.states(batch.inputs, lm.embedding, which="cell")
    values = values[0, :, -1].numpy()
    read = lm.token_ids(lm.cleaner(text)).tolist()
    assert read[0] == 0 and inputs[:len(read) - 1] == read[:-1]      # the last one is a target only
    two = next(iter(stream_of(lm, [text, "bad"], docs_per_shard=2)))
    with torch.no_grad(): after, _ = lm.backbone.states(two.inputs, lm.embedding, which="cell")
    np.testing.assert_allclose(lm.featurize([text])[0], after[0, len(read) - 1, -1], atol=1e-6)
    last_of_text = len(lm.token_ids(lm.cleaner.front + text)) - 1
    np.testing.assert_allclose(lm.trace(text)[-1], values[last_of_text], atol=1e-6)
    sample, = lm.generate_samples(text, n=1, trace=range(12))
    np.testing.assert_allclose(sample.trace[len(text) - 1], values[last_of_text], atol=1e-6)


def test_a_beginning_changes_every_use():
    "The two rules are two rules: nothing is equal by accident."
    ours = small_lm()
    theirs = small_lm(document_start="none")
    assert ours.fingerprint != theirs.fingerprint
    for use in (lambda lm: lm.featurize(["A film"]), lambda lm: lm.trace("A film"), lambda lm: lm.score(["A film"])[0]):
        assert np.abs(use(ours) - use(theirs)).max() > 1e-6


@pytest.mark.parametrize("cleaning, start", [("review", "pad"), ("openai", "none"), ("original_review", "none")])
def test_the_first_format_names_no_beginning(tmp_path, cleaning, start):
    "Models saved before the setting existed keep the rule that they were trained with."
    file = small_lm(cleaning=cleaning, document_start=start).save(tmp_path / "m") / "config.json"
    description = json.loads(file.read_text())
    del description["model"]["document_start"], description["weights_sha256"]
    file.write_text(json.dumps(description | dict(format_version=1)))
    assert LanguageModel.load(tmp_path / "m", "cpu").config.document_start == start


# what counts

@quick
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.integers(1, 3), st.integers(1, 9), st.integers(1, 3),
       st.sampled_from(sorted(CLEANERS)), st.booleans())
def test_a_stream_counts_the_bytes_of_its_texts(texts, batch_size, seq_len, docs_per_shard, cleaning, legacy):
    "However the texts lie in windows, all of their bytes count and none of the pads, in rows of unequal length, too."
    tokenizer = CharTokenizer(legacy=legacy)
    lm = small_lm(tokenizer, cleaning=cleaning)
    text_bytes = TextBytes(tokenizer, lm.cleaner)
    total = 0
    for batch, after in pairwise([*stream_of(lm, texts, batch_size, seq_len, docs_per_shard), None]):
        future = () if after is None else (after.targets[:, 0], after.mask[:, 0])
        total += text_bytes(batch.inputs, batch.targets, batch.mask, *(future or end(batch))).sum().item()
    assert total == sum(len(lm.cleaner.body(text).encode()) for text in texts)


def end(batch):
    "What follows the last window: nothing."
    return torch.zeros(len(batch.mask), dtype=torch.int64), torch.zeros(len(batch.mask), dtype=torch.bool)


@pytest.mark.parametrize("tokenizer", [CharTokenizer, lambda: CharTokenizer(legacy=True), pieces])
def test_training_and_score_measure_the_same_bits(tokenizer):
    lm = small_lm(tokenizer())
    text_bytes = TextBytes(lm.tokenizer, lm.cleaner)
    state, nats, total = None, 0., 0
    for batch, after in pairwise([*stream_of(lm, TEXTS, 2, 7), None]):
        future = end(batch) if after is None else (after.targets[:, 0], after.mask[:, 0])
        n_bytes = text_bytes(batch.inputs, batch.targets, batch.mask, *future)
        arguments = batch.inputs, batch.targets, state, batch.reset, batch.mask
        _, state, of_text = lm(*arguments, scored=n_bytes > 0)
        with torch.no_grad(): _, _, same = lm(*arguments, scored=n_bytes > 0)
        assert abs(same - of_text) < 1e-4                           # with and without gradients
        nats += of_text.item()
        total += n_bytes.sum().item()
    assert abs(bits_per_byte(nats, total) - lm.bits_per_character(TEXTS)) < 1e-4


def test_the_loss_apart_leaves_the_gradient_alone():
    lm = small_lm()
    tokens = torch.randint(1, 257, (3, 9))
    gradients = []
    for more in {}, dict(scored=torch.zeros(3, 8, dtype=torch.bool)):
        lm.zero_grad()
        lm(tokens[:, :-1], tokens[:, 1:], **more)[0].backward()
        gradients.append(lm.head.weight.grad.clone())
    assert torch.equal(*gradients)


# generation

def plain_sampler(lm, prompt, n, temperature, seed, clamp=None):
    "Sampling as it is defined, one step after the other."
    tokens = torch.from_numpy(lm.token_ids(lm.cleaner.front + prompt).astype(np.int64))[None]
    generator = np.random.default_rng([seed, 0])
    state, drawn = None, []
    with lm.inference():
        for _ in range(n):
            logits, state = lm.logits(tokens, state)
            for unit, value in (clamp or {}).items(): state[1][-1, :, unit] = value
            noise = torch.from_numpy(generator.random((1, lm.config.vocab_size), np.float32).clip(1e-10, 1 - 1e-7))
            logits = logits[:, -1].float()
            logits[:, 0] = -torch.inf
            tokens = (logits / temperature - torch.log(-torch.log(noise))).argmax(1)[:, None]
            drawn.append(tokens.item())
    return prompt + lm.tokenizer.decode(drawn)


@pytest.mark.parametrize("tokenizer", [CharTokenizer, pieces])
@pytest.mark.parametrize("backbone", ["mlstm", "transformer"])
def test_without_limits_it_is_the_plain_sampler(tokenizer, backbone):
    lm = small_lm(tokenizer(), backbone=backbone)
    for seed, temperature in (0, 1.), (1, .7), (2, 3.):
        expected = plain_sampler(lm, "very good", 90, temperature, seed)
        assert lm.generate("very good", 90, temperature=temperature, seed=seed) == expected
        assert lm.generate("very good", 90, temperature=temperature, seed=seed, top_k=10**6) == expected
    if backbone == "mlstm":
        clamp = {3: 2., 5: -1.}
        assert lm.generate("very good", 90, clamp) == plain_sampler(lm, "very good", 90, 1., 0, clamp)


@quick
@given(st.sampled_from(["cell", "hidden"]), st.sampled_from(["clamp", "add", "scale"]),
       st.dictionaries(st.integers(0, 11), st.floats(-2, 2, width=16), max_size=5))
def test_any_edit_of_any_units(state, how, values):
    "Every step goes on from exactly the state that the edit asks for."
    lm = small_lm()
    before, after = [], []
    logits = lm.logits
    def noted(tokens, given=None):
        if given: after.append([part.clone() for part in given])
        scores, new = logits(tokens, given)
        before.append([part.clone() for part in new])
        return scores, new
    object.__setattr__(lm, "logits", noted)
    lm.generate("a", n=4, edits=[Edit(values, how, state)])
    which = ["hidden", "cell"].index(state)
    assert len(after) == 3
    for old, new in zip(before, after):
        for unit, value in values.items():
            x = old[which][-1, 0, unit]
            x.copy_({"clamp": torch.tensor(value), "add": x + value, "scale": x * value}[how])
        for x, y in zip(old, new): assert torch.equal(x, y)


def test_samples_of_a_batch_are_independent():
    lm = small_lm()
    together = lm.generate_samples("a", n=30, samples=4, seed=3, trace=[1, 2])
    assert len({s.text for s in together}) == 4
    assert lm.generate("a", n=30, seed=3) == together[0].text
    held = lm.generate_samples("a", n=30, samples=2, seed=3, clamp={4: [9., -9.]}, trace=[4])
    first, second = (s.trace[5:].mean() for s in held)
    assert first > 2 > -2 > second


@quick
@given(st.integers(0, 100), st.sampled_from(["é 👍", "", "a", "A <br> b"]), st.booleans())
def test_a_trace_fits_its_text(seed, prompt, stop):
    "One row a byte of the text, replacement characters included, and the values that the model had there."
    lm = small_lm()
    for sample in lm.generate_samples(prompt, 40, 3, seed=seed, trace=[0, 5], stop_at_end=stop):
        data = sample.text.encode()
        assert sample.trace.shape == (len(data), 2) and sample.trace.dtype == np.float32
        assert data[:sample.n_prompt].decode() == lm.cleaner.body(prompt)
        ids = np.concatenate([lm.token_ids(lm.cleaner.front), lm.tokenizer.encode(data[:data.find(b"\xef\xbf\xbd")])])
        if b"\xef\xbf\xbd" in data or stop: continue
        ids = np.concatenate([lm.token_ids(lm.cleaner.front), lm.tokenizer.encode(data)]).astype(np.int64)
        with lm.inference(): values, _ = lm.state_step("cell", "last")(torch.from_numpy(ids)[None], None)
        np.testing.assert_allclose(sample.trace, values[0, 3:, [0, 5]], atol=1e-5)


@quick
@given(st.binary(max_size=60))
def test_decoding_knows_where_each_byte_was(data):
    text, origin = decode_aligned(data)
    assert text == data.decode(errors="replace") and len(origin) == len(text.encode())
    exact = [i for i, byte in zip(origin, text.encode()) if data[i] == byte]
    assert (np.diff(origin) >= 0).all() and len(exact) >= len(data.decode(errors="ignore").encode())


class Script(LanguageModel):
    "A model that writes what it was told to."
    def logits(self, tokens, state=None, reset=None):
        _, state = super().logits(tokens, state, reset)
        place = 0 if state is None or not hasattr(self, "place") else self.place
        wanted = self.tokenizer.encode(self.script)
        self.place = place + 1
        token = torch.full(tokens.shape, int(wanted[place % len(wanted)]))
        return 99. * torch.nn.functional.one_hot(token, self.config.vocab_size), state


@pytest.mark.parametrize("tokenizer, script, ended", [
    (CharTokenizer, ". Bad acting. \n The next review.", True),
    (pieces, ". bad acting. \n very", True),
    (pieces, ". bad acting. ", True),               # the blank of the back pad is a piece of its own
    (CharTokenizer, ". Bad acting. And no end.", False)])
def test_generation_stops_where_the_document_ends(tokenizer, script, ended):
    tokenizer = tokenizer()
    config = LMConfig(hidden_size=4, embedding_size=3, vocab_size=tokenizer.n_tokens)
    lm = Script(config, tokenizer)
    lm.script = script
    n = len(tokenizer.encode(script))
    sample, = lm.generate_samples("good film", n, stop_at_end=True)
    assert sample.ended == ended
    assert sample.text.lower() == ("good film. bad acting." if ended else "good film" + script.lower())
    lm.place = 0
    assert not lm.generate_samples("good film", n)[0].ended


@pytest.mark.slow    # a busy machine disturbs the ratio
def test_generation_is_nearly_as_fast_as_the_bare_steps():
    "The sampler around a step costs at most a tenth of it, for the model that ships."
    lm = LanguageModel.load(device="cpu")
    def steps():
        tokens, state = torch.full((1, 1), 50), None
        with lm.inference():
            for _ in range(100): _, state = lm.logits(tokens, state)
    def seconds(run):
        start = time.process_time()
        run()
        return time.process_time() - start
    rounds = [(seconds(steps), seconds(lambda: lm.generate("This", n=100, temperature=.7))) for _ in range(12)]
    bare, generation = map(min, zip(*rounds))
    assert bare / generation > .9, f"{bare / generation:.0%} of the speed of bare steps"


# loading

def edit_header(folder, change):
    "Rewrite the header of a safetensors file."
    file = folder / "model.safetensors"
    data = file.read_bytes()
    n, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + n])
    change(header)
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + n:])


def edit_config(folder, **changes):
    file = folder / "config.json"
    description = json.loads(file.read_text())
    description["model"] |= changes
    file.write_text(json.dumps(description))


def save_with(folder, value):
    lm = small_lm()
    with torch.no_grad(): lm.head.weight[3, 2] = value
    lm.save(folder)


def seal(folder):
    from sentnb.training.checkpoints import write_checksums
    (folder / "training").mkdir()
    write_checksums(folder, 1)


def forge(folder):
    "Other weights under a config that says nothing about them, as the first format had it."
    seal(folder)
    description = json.loads((folder / "config.json").read_text())
    del description["weights_sha256"]
    small_lm(seed=1).save(folder)
    (folder / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize("change, says", [
    (lambda f: edit_config(f, hidden_size=10**9), "hidden_size can be 65536 at most"),
    (lambda f: edit_config(f, n_layers=10**9), "n_layers can be 1024 at most"),
    (lambda f: edit_config(f, hidden_size=60_000), "has shape .* and config.json asks for"),
    (lambda f: edit_config(f, n_layers=1000), "is missing from the weights"),
    (lambda f: edit_config(f, vocab_size=10**9), "vocab_size can be"),
    (lambda f: edit_config(f, dropout=float("nan")), "'dropout' must be a finite number"),
    (lambda f: edit_config(f, hidden_size="12"), "parameter 'hidden_size' must be int"),
    (lambda f: edit_config(f, document_start="start"), "document_start cannot be 'start'"),
    (lambda f: (f / "config.json").write_text("[" * 10**5), "config.json of m is damaged"),
    (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json of m is damaged"),
    (lambda f: (f / "tokenizer.json").write_text("[" * 10**5), "tokenizer.json in m is damaged"),
    (lambda f: (f / "tokenizer.json").write_text('{"kind": 3}'), "tokenizer.json in m is damaged"),
    (lambda f: (f / "tokenizer.json").write_text('{"kind": "sentencepiece"}'), "there is no SentencePiece model"),
    (lambda f: (f / "config.json").write_text('{"format_version": 2, "model": []}'), "'model' is missing or no dict"),
    (lambda f: edit_header(f, lambda h: h["head.bias"].update(shape=[10**12])), "is damaged"),
    (lambda f: edit_header(f, lambda h: h["head.bias"].update(dtype="I32")), "is I32, and config.json says float32"),
    (lambda f: save_with(f, float("nan")), "'head.weight' of m holds NaN or infinite numbers"),
    (lambda f: save_with(f, float("inf")), "'head.weight' of m holds NaN or infinite numbers"),
    (forge, "m is damaged: (config.json|model.safetensors) is not what was saved")])
def test_a_damaged_or_hostile_folder_says_so(tmp_path, change, says):
    small_lm().save(tmp_path / "m")
    change(tmp_path / "m")
    start = time.process_time()
    with pytest.raises(SentnbError, match=says) as caught: LanguageModel.load(tmp_path / "m", "cpu")
    assert "\n" not in str(caught.value) and time.process_time() - start < 10


@pytest.mark.parametrize("sealed", [False, True])
def test_any_flipped_bit_of_the_weights_is_found(tmp_path, sealed):
    folder = small_lm().save(tmp_path / "m")
    if sealed: seal(folder)
    LanguageModel.load(folder, "cpu")
    data = (folder / "model.safetensors").read_bytes()
    for place in np.linspace(8, len(data) - 1, 9).astype(int):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(place) % 8
        (folder / "model.safetensors").write_bytes(flipped)
        with pytest.raises(SentnbError): LanguageModel.load(folder, "cpu")


def test_the_released_weights_are_vouched_for(tmp_path):
    "Also by its older files, which name the hash beside the classifier alone."
    import shutil
    from sentnb.models.lm import find_model
    folder = shutil.copytree(find_model(), tmp_path / "copy")
    LanguageModel.load(folder, "cpu")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(SentnbError, match="copy is damaged"): LanguageModel.load(folder, "cpu")


def test_a_run_is_a_model(tmp_path):
    lm = small_lm()
    lm.save(tmp_path / "run" / "checkpoint" / "step-7")
    for name, content in dict(best="\0junk\n" * 99, latest="step-7\n").items():
        (tmp_path / "run" / "checkpoint" / name).write_text(content)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoint", tmp_path / "run" / "checkpoint" / "step-7"):
        assert LanguageModel.load(path, "cpu").fingerprint == lm.fingerprint
    (tmp_path / "run" / "checkpoint" / "latest").write_text("../../elsewhere")
    for path in (tmp_path / "run", "x" * 5000, "a\0b"):
        with pytest.raises(SentnbError): LanguageModel.load(path, "cpu")


@pytest.mark.parametrize("backbone", ["mlstm", "transformer"])
def test_a_model_describes_itself_in_one_line(backbone):
    said = repr(small_lm(backbone=backbone))
    assert "\n" not in said and len(said) < 160
    assert backbone in said and "12 units" in said and "257 tokens (char)" in said and "float32 on cpu" in said


# importing

def release(folder, replace={}):
    "A release in OpenAI's layout, some of its files replaced."
    rng = np.random.default_rng(0)
    H, E, V = 6, 4, 256
    shapes = [(V, E), (E, 4*H), *[(H, H)] * 4, (E, H), (H, H), (4*H,), (4*H,), (4*H,), (H,), (H,), (H, V), (V,)]
    folder.mkdir()
    for k, shape in enumerate(shapes):
        array = rng.normal(size=shape).astype(np.float32)
        content = replace.get(k, lambda array: array)(array)
        if isinstance(content, bytes): (folder / f"{k}.npy").write_bytes(content)
        elif content is not None: np.save(folder / f"{k}.npy", content)
    return folder


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


NPY = {"no file": lambda a: None,
       "empty": lambda a: b"",
       "no header": lambda a: b"\x93NUMPY",
       "cut in the header": lambda a: npy(a)[:40],
       "cut in the numbers": lambda a: npy(a)[:-5],
       "text": lambda a: b"not an array",
       "a zip of arrays": npz,
       "a huge array": lambda a: npy(a).replace(str(a.shape[0]).encode(), b"1000000000000", 1),
       "a negative size": lambda a: npy(a).replace(str(a.shape[0]).encode(), b"-1", 1),
       "integers": lambda a: a.astype(np.int32),
       "complex numbers": lambda a: a.astype(np.complex64),
       "texts": lambda a: a.astype("U5"),
       "objects": lambda a: np.array([{"a": 1}], dtype=object),
       "a scalar": lambda a: np.float32(1),
       "a row too many": lambda a: np.concatenate([a, a[:1]]),
       "nothing": lambda a: a[:0],
       "NaN": lambda a: np.where(a == a.max(), np.nan, a),
       "infinity": lambda a: np.where(a == a.max(), np.inf, a)}


@pytest.mark.parametrize("file", [0, 7, 12, 14])
@pytest.mark.parametrize("kind", NPY)
def test_a_malformed_release_says_so(tmp_path, file, kind):
    folder = release(tmp_path / "release", {file: NPY[kind]})
    with pytest.raises(SentnbError) as caught: from_openai(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def original(V=257, E=4, H=6, n_layers=1):
    "A checkpoint of sentiment-discovery with random numbers."
    torch.manual_seed(0)
    shapes = dict(w_ih=(4*H, E), w_hh=(4*H, H), w_mih=(H, E), w_mhh=(H, H), b_ih=(4*H,), b_hh=(4*H,))
    rnn = {f"rnns.0.{name}": torch.randn(shape) for name, shape in shapes.items()}
    return {"encoder": {"encoder": {"weight": torch.randn(V, E)}, "rnn": rnn},
            "decoder": {"weight": torch.randn(V, H), "bias": torch.randn(V)}}


def inside(path, value):
    "Replace one entry of the nest, or delete it."
    def change(nest):
        *above, last = path
        for key in above: nest = nest[key]
        if value is None: del nest[last]
        else: nest[last] = value(nest.get(last)) if callable(value) else value
    return change


W_HH = ("encoder", "rnn", "rnns.0.w_hh")
PT = {"no embedding": inside(("encoder", "encoder"), None),
      "an embedding of text": inside(("encoder", "encoder", "weight"), "text"),
      "an embedding of one dimension": inside(("encoder", "encoder", "weight"), lambda t: t[0]),
      "no recurrent matrix": inside(W_HH, None),
      "a matrix of text": inside(W_HH, "text"),
      "a matrix of integers": inside(W_HH, lambda t: t.long()),
      "a scalar": inside(W_HH, lambda t: t[0, 0]),
      "a bias of two dimensions": inside(("encoder", "rnn", "rnns.0.b_ih"), lambda t: t[None]),
      "a short bias": inside(("encoder", "rnn", "rnns.0.b_ih"), lambda t: t[:-1]),
      "another width": inside(W_HH, lambda t: t[:, :-1]),
      "another width inside": inside(("encoder", "rnn", "rnns.0.w_mhh"), lambda t: t[:-1]),
      "a view of one number": inside(("encoder", "rnn", "rnns.0.b_ih"), lambda t: t[:1].clone().expand(10**10)),
      "a sparse matrix": inside(W_HH, lambda t: t.to_sparse()),
      "layers as a list": inside(("encoder", "rnn"), [1, 2]),
      "a list as decoder": inside(("decoder",), [1, 2]),
      "a decoder without bias": inside(("decoder", "bias"), None),
      "a decoder of another size": inside(("decoder", "weight"), lambda t: t[:-1]),
      "a layer left out": inside(("encoder", "rnn", "rnns.2.w_hh"), lambda _: torch.ones(24, 6)),
      "NaN": inside(W_HH, lambda t: t * torch.nan),
      "infinity": inside(("decoder", "bias"), lambda t: t / 0)}


@pytest.mark.parametrize("kind", PT)
def test_a_malformed_checkpoint_says_so(tmp_path, kind):
    content = original()
    PT[kind](content)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(SentnbError) as caught: from_sentiment_discovery(tmp_path / "m.pt")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [[], 5, "text", torch.zeros(3), {"rnn": 3}, {"encoder": {"rnn": {}}}, {1: {2: 3}}])
def test_a_file_of_something_else_says_so(tmp_path, content):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(SentnbError): from_sentiment_discovery(tmp_path / "m.pt")


def test_a_nest_that_contains_itself_says_so(tmp_path):
    nest = {}
    nest["again"] = nest
    torch.save(nest, tmp_path / "m.pt")
    with pytest.raises(SentnbError, match="no recurrent language model"): from_sentiment_discovery(tmp_path / "m.pt")


def test_any_damage_to_a_checkpoint_is_one_sentence_or_none(tmp_path):
    "Cut anywhere, or a byte changed anywhere: it is refused, or it is still a model of finite numbers."
    torch.save(original(), tmp_path / "good.pt")
    from_sentiment_discovery(tmp_path / "good.pt")
    data = (tmp_path / "good.pt").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        if rng.random() < .3: del damaged[rng.integers(len(data)):]
        else:
            for place in rng.integers(0, len(data), 3): damaged[place] = rng.integers(256)
        (tmp_path / "bad.pt").write_bytes(damaged)
        try: lm = from_sentiment_discovery(tmp_path / "bad.pt")
        except SentnbError as e: assert "\n" not in str(e)
        else: assert np.isfinite(lm.featurize(["A film"])).all()


def test_imported_models_keep_their_own_beginning(tmp_path):
    "And keep it after they were saved as ours."
    for lm in from_openai(release(tmp_path / "release")), None:
        if lm is None:
            torch.save(original(), tmp_path / "m.pt")
            lm = from_sentiment_discovery(tmp_path / "m.pt")
        again = LanguageModel.load(lm.save(tmp_path / "saved"), "cpu")
        assert again.config.document_start == "none"
        assert again.token_ids("A").tolist() == lm.tokenizer.encode("A").tolist()
        np.testing.assert_array_equal(again.featurize(["A film"]), lm.featurize(["A film"]))


def test_weights_are_saved_with_their_hash(tmp_path):
    import hashlib
    folder = small_lm().save(tmp_path / "m")
    data = (folder / "model.safetensors").read_bytes()
    assert json.loads((folder / "config.json").read_text())["weights_sha256"] == hashlib.sha256(data).hexdigest()
    assert safetensors.torch.load(data).keys() == small_lm().state_dict().keys()


def test_loading_a_model_imports_no_compiler():
    code = "import sys, sentnb; sentnb.LanguageModel.load('reviews-mlstm-768'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
