"Every string comes back exactly, whatever is in it."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sentnb.data.tokenizers import CharTokenizer, SentencePieceTokenizer

SAMPLE = [f"\n I watched film {i} twice▁ and {'loved' if i % 3 else 'hated'} all of it. Größe, 北京 & 😀\n"
          for i in range(300)]
VOCAB_SIZES = dict(unigram=310, bpe=310, char=300)
any_character = st.characters(exclude_categories=["Cs"])
nasty_character = st.sampled_from(" \n\t\r\0▁\u2585\ufeff<>0x41aeIé😀")
texts = st.text(st.one_of(any_character, nasty_character), max_size=60)
odd_texts = ["", " ", "  \n\n ", "\0", "▁", "a▁b ▁▁ ", "\u2585", "\ufeff\u200b\u200d", "<0x41><unk><s></s>",
             "\r\n\t\x0b\x1c\u2028", "e\u0301 ｆｕｌｌ ﬁ", "\U0010ffff", " a", "a "]


@pytest.fixture(scope="module")
def tokenizers():
    learned = [SentencePieceTokenizer.train(SAMPLE, vocab_size=size, model_type=model_type)
               for model_type, size in VOCAB_SIZES.items()]
    return [CharTokenizer(), CharTokenizer(legacy=True), *learned]


def check_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert ids.dtype == np.int64
    assert (ids >= tokenizer.offset).all() and (ids < tokenizer.n_tokens).all()
    stored = tokenizer.encode_stored(text)
    assert stored.dtype == tokenizer.dtype
    np.testing.assert_array_equal(stored.astype(int) + tokenizer.offset, ids)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_round_trip(tokenizers, text):
    for tokenizer in tokenizers: check_round_trip(tokenizer, text)


@pytest.mark.parametrize("text", odd_texts)
def test_odd_strings(tokenizers, text):
    for tokenizer in tokenizers: check_round_trip(tokenizer, text)


def test_every_character_of_the_first_plane(tokenizers):
    "All 63,488 of them in one text."
    code_points = [*range(0xd800), *range(0xe000, 0x10000)]     # without the surrogates
    for tokenizer in tokenizers: check_round_trip(tokenizer, "".join(map(chr, code_points)))


def test_a_sample_without_spaces_still_gives_spaces():
    sample = ["verylongwordwithoutend" * 3 + chr(97 + i % 26) for i in range(200)]
    tokenizer = SentencePieceTokenizer.train(sample, vocab_size=320, model_type="bpe")
    check_round_trip(tokenizer, " a b  c▁d ")


def test_a_batch_is_encoded_like_its_texts(tokenizers):
    "Spans between space symbols find their way back to their texts."
    for tokenizer in tokenizers[2:]:
        for text, numbers in zip(odd_texts, tokenizer.encode_batch(odd_texts), strict=True):
            np.testing.assert_array_equal(numbers, tokenizer.encode_stored(text))


def test_bytes_are_taken_as_text(tokenizers):
    for tokenizer in tokenizers:
        np.testing.assert_array_equal(tokenizer.encode("é▁ x"), tokenizer.encode("é▁ x".encode()))


def test_pads_decode_to_nothing(tokenizers):
    for tokenizer in tokenizers:
        if tokenizer.offset == 0: continue      # the legacy form has no pad of its own
        assert tokenizer.decode([0, *tokenizer.encode("ab"), 0, 0]) == "ab"
