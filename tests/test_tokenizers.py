"Every string comes back exactly, whatever is in it."
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from sentnb.data.tokenizers import CharTokenizer, SentencePieceTokenizer

SAMPLE = [f"\n I watched film {i} twice▁ and {'loved' if i % 3 else 'hated'} all of it. Größe, 北京 & 😀\n" for i in range(300)]
KINDS = ("unigram", "bpe", "char")
texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t\r\0▁\u2585\ufeff<>0x41aeIé😀")), max_size=60)
odd = ["", " ", "  \n\n ", "\0", "▁", "a▁b ▁▁ ", "\u2585", "\ufeff\u200b\u200d", "<0x41><unk><s></s>", "\r\n\t\x0b\x1c\u2028", "e\u0301 ｆｕｌｌ ﬁ", "\U0010ffff", " a", "a "]


@pytest.fixture(scope="module")
def tokenizers():
    pieces = {kind: SentencePieceTokenizer.train(SAMPLE, vocab_size=310 if kind != "char" else 300, model_type=kind) for kind in KINDS}
    return [CharTokenizer(), CharTokenizer(legacy=True), *pieces.values()]


def check(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text and tok.decode_bytes(ids) == text.encode()
    assert tok.byte_lengths()[ids].sum() == len(text.encode())
    assert ids.dtype == np.int64 and (ids >= tok.offset).all() and (ids < tok.n_tokens).all()
    np.testing.assert_array_equal(tok.encode_stored(text).astype(int) + tok.offset, ids)
    assert tok.encode_stored(text).dtype == tok.dtype


@settings(max_examples=300, deadline=None)
@given(texts)
def test_round_trip(tokenizers, text):
    for tok in tokenizers: check(tok, text)


@pytest.mark.parametrize("text", odd)
def test_odd_strings(tokenizers, text):
    for tok in tokenizers: check(tok, text)


def test_every_character_of_the_first_plane(tokenizers):
    "All 63,488 of them at once, and each alone for characters that tokenizers treat specially."
    everything = "".join(map(chr, [*range(0xd800), *range(0xe000, 0x10000)]))
    for tok in tokenizers: check(tok, everything)


def test_a_sample_without_spaces_still_gives_spaces():
    tok = SentencePieceTokenizer.train(["verylongwordwithoutend" * 3 + chr(97 + i % 26) for i in range(200)], vocab_size=320, model_type="bpe")
    check(tok, " a b  c▁d ")


def test_bytes_are_taken_as_text(tokenizers):
    for tok in tokenizers: np.testing.assert_array_equal(tok.encode("é▁ x"), tok.encode("é▁ x".encode()))


def test_pads_decode_to_nothing(tokenizers):
    for tok in tokenizers:
        if tok.offset: assert tok.decode([0, *tok.encode("ab"), 0, 0]) == "ab"
