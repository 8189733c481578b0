"What must hold for every cleaning and every text."
import html
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sentnb.data.cleaning import CLEANERS, get_cleaner

fragments = st.sampled_from(["&amp;", "&lt;br /&gt;", "<br />", "<p class='x'>", "&#233;", "&eacute", "&", "<", ">", "#tag", "@who", "https://t.co/x", "www.a.b",
                             "😀", "👨‍👩‍👧", "1️⃣", "é", "e\u0301", "北京", "½", "ﬁ", "\u00a0", "\u2003", "  ", "\n", "\r\n", "\t", "\0", "!!!!!!", "soooo", "\\n", "_", "5 < 6"])
texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.lists(st.one_of(fragments, st.text(max_size=3).filter(lambda t: t.isprintable())), max_size=20).map("".join))


@pytest.mark.parametrize("name", CLEANERS)
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_alignment(name, text):
    "The aligned text is the cleaned text; pads are -1; origins lie in the text and never go back."
    c = get_cleaner(name)
    cleaned, origin = c.align(text)
    front, back = len(c.front.encode()), len(c.back.encode())
    inside = origin[front:len(origin) - back]
    assert cleaned == c(text) == c.front + c.body(text) + c.back
    assert len(origin) == len(cleaned.encode()) and origin.dtype == np.int64
    assert (origin[:front] == -1).all() and (origin[len(origin) - back:] == -1).all()
    assert (np.diff(inside) >= 0).all() and (inside >= 0).all() and (inside < max(1, len(text.encode()))).all()


@settings(max_examples=100, deadline=None)
@given(texts)
def test_kept_characters_point_at_themselves(text):
    "In the cleaning that removes nothing but white space, every byte that is no space came from an equal byte."
    cleaned, origin = get_cleaner("review").align(text.replace("&", "+").replace("<", "("))
    source = text.replace("&", "+").replace("<", "(").encode()
    for byte, o in zip(cleaned.encode(), origin):
        if o >= 0 and byte != 32: assert source[o] == byte


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
    assert cleaned.isascii() and (not cleaned or cleaned.isprintable()) and "  " not in cleaned


def test_no_pattern_is_slow_on_hostile_text():
    "A hundred thousand characters that almost match, in a second or so."
    import time
    for text in ["<" * 100_000, "<a" * 50_000, "&#" * 50_000, " \n" * 50_000 + "x", "@" * 100_000, "#" * 100_000, "a" * 100_000, "x " * 50_000, "http" * 25_000]:
        for name in CLEANERS:
            started = time.process_time()
            get_cleaner(name)(text)
            assert time.process_time() - started < 3, f"{name} on {text[:4]!r}"
