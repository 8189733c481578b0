"What must hold for every cleaning and every text."
import html
import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sentnb.data.cleaning import CLEANERS, get_cleaner

fragments = st.sampled_from([
    "&amp;", "&lt;br /&gt;", "<br />", "<p class='x'>", "&#233;", "&eacute", "&", "<", ">", "5 < 6",
    "#tag", "@who", "https://t.co/x", "www.a.b", "!!!!!!", "soooo", "_",
    "😀", "👨‍👩‍👧", "1️⃣", "é", "e\u0301", "北京", "½", "ﬁ",
    "\u00a0", "\u2003", "  ", "\n", "\r\n", "\t", "\0", "\\n"])
printable = st.text(max_size=3).filter(lambda text: text.isprintable())
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
texts = st.one_of(any_text, st.lists(st.one_of(fragments, printable), max_size=20).map("".join))


@pytest.mark.parametrize("name", CLEANERS)
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_alignment(name, text):
    "The aligned text is the cleaned text; pads are -1; origins lie in the text and never decrease."
    cleaner = get_cleaner(name)
    cleaned, origin = cleaner.align(text)
    assert cleaned == cleaner(text) == cleaner.front + cleaner.body(text) + cleaner.back
    assert len(origin) == len(cleaned.encode())
    assert origin.dtype == np.int64
    front = len(cleaner.front.encode())
    back = len(origin) - len(cleaner.back.encode())
    assert (origin[:front] == -1).all() and (origin[back:] == -1).all()
    inner = origin[front:back]
    assert (np.diff(inner) >= 0).all()
    assert (inner >= 0).all() and (inner < max(1, len(text.encode()))).all()


@settings(max_examples=100, deadline=None)
@given(texts)
def test_kept_characters_point_at_themselves(text):
    "When cleaning removes nothing but whitespace, every byte that is no space came from an equal byte."
    text = text.replace("&", "+").replace("<", "(")
    source = text.encode()
    cleaned, origin = get_cleaner("review").align(text)
    for byte, o in zip(cleaned.encode(), origin, strict=True):
        if o >= 0 and byte != ord(" "): assert source[o] == byte


@settings(max_examples=100, deadline=None)
@given(texts)
def test_reviews_equal_plain_methods(text):
    assert get_cleaner("openai")(text) == "\n " + html.unescape(text).replace("\n", " ").strip() + " "
    if "<" not in text: assert get_cleaner("review").body(text) == " ".join(html.unescape(text).split())
    assert get_cleaner("review_ascii")(text).isascii()


@settings(max_examples=100, deadline=None)
@given(texts)
def test_tweets_of_the_original_are_printable_ascii(text):
    cleaned = get_cleaner("original_tweet")(text)
    assert cleaned.isascii()
    assert cleaned.isprintable()
    assert "  " not in cleaned


@pytest.mark.parametrize("pattern", ["<", "<a", "&#", " \n", "@", "#", "a", "x ", "http"])
def test_no_rule_is_slow_on_hostile_text(pattern):
    "A hundred thousand characters that almost match take a second or so."
    text = pattern * (100_000 // len(pattern)) + "x"
    for name in CLEANERS:
        started = time.process_time()
        get_cleaner(name)(text)
        assert time.process_time() - started < 3, name
