"Training counts as `score` does: the text of a document, without its pads."
import dataclasses
import random

import pytest
import torch
from sentnb.data.cleaning import get_cleaner
from sentnb.data.token_files import TokenFile, write_manifest
from sentnb.data.tokenizers import CharTokenizer, SentencePieceTokenizer
from sentnb.models.lm import LanguageModel
from sentnb.training.launch import launch
from sentnb.training.pretrain import pretrain
from training_tools import new_run, settings

SUBJECTS = ["A film", "This plot", "The leading actor", "Nobody", "The café scene"]
VERBS = ["is", "was not", "may have been", "turned out", "seems"]
ENDS = ["good.", "bad!", "terribly dull", "worth every minute of it…", "naïve"]


@pytest.fixture(autouse=True, scope="module")
def one_thread(): torch.set_num_threads(1)


def make_texts(n):
    rng = random.Random(0)
    return [" ".join(rng.choice(part) for part in (SUBJECTS, VERBS, ENDS)) for _ in range(n)]


TOKENIZERS = dict(
    char=lambda texts: CharTokenizer(),
    legacy=lambda texts: CharTokenizer(legacy=True),
    bpe=lambda texts: SentencePieceTokenizer.train(texts, 330, "bpe"),
    unigram=lambda texts: SentencePieceTokenizer.train(texts, 300, "unigram"))


def make_corpus(folder, texts, kind, cleaning):
    "The last forty texts are held out."
    cleaned = [get_cleaner(cleaning)(text) for text in texts]
    tokenizer = TOKENIZERS[kind](cleaned)
    for split, part in dict(train=cleaned[:-40], val=cleaned[-40:]).items():
        TokenFile.from_texts(part, tokenizer).save(folder, split)
    write_manifest(folder, ["train", "val"], tokenizer, cleaning=cleaning)
    return folder


def one_document_a_shard(corpus, **changes):
    return settings(corpus, docs_per_shard=1, steps=12, eval_every=0, seq_len=7, **changes)


@pytest.mark.parametrize("cleaning", ["review", "none"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_validation_is_the_score(tmp_path, kind, cleaning):
    texts = make_texts(300)
    config = one_document_a_shard(make_corpus(tmp_path / "corpus", texts, kind, cleaning))
    run = new_run(tmp_path, "run", config)
    result = pretrain(config, run)
    lm = LanguageModel.load(run.checkpoint_folder, device="cpu")
    assert abs(result.bits_per_character - lm.bits_per_character(texts[-40:])) < 1e-5
    _, n_bytes = lm.score(texts[-40:])
    assert run.metrics("val").characters.iloc[-1] == n_bytes.sum()


def test_pads_are_learned_and_not_counted(tmp_path):
    "The loss is over all targets; a row of the log says how much text it stands for."
    texts = make_texts(120)
    corpus = make_corpus(tmp_path / "corpus", texts, "char", "review")
    config = one_document_a_shard(corpus, log_every=1)
    config = dataclasses.replace(config, steps=0, epochs=1., seq_len=64)
    run = new_run(tmp_path, "run", config)
    pretrain(config, run)
    train = run.metrics("train")
    n_bytes = sum(len(text.encode()) for text in texts[:-40])
    n_ends = 8 * len(train)                       # of a row in a window: what follows is not known in training
    assert n_bytes <= train.characters.sum() <= n_bytes + n_ends / 4
    assert train.characters.iloc[-1] < train.characters.iloc[0] / 2, "the tail of an epoch has little text"
    assert (train.bits_per_character > train.bits_per_token).mean() > .5, "pads are easy"


def test_two_processes_count_alike(tmp_path):
    texts = make_texts(300)
    corpus = make_corpus(tmp_path / "corpus", texts, "bpe", "review")
    config = one_document_a_shard(corpus, log_every=3)
    one, two = new_run(tmp_path, "one", config), new_run(tmp_path, "two", config)
    pretrain(config, one)
    launch(dataclasses.replace(config, nproc=2), two)
    for split in ("train", "val"):
        first, second = one.metrics(split), two.metrics(split)
        assert first.characters.equals(second.characters)
        assert (first.bits_per_character - second.bits_per_character).abs().max() < 1e-5
