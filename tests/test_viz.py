"What a cell of nbs/5_viz cannot show: properties over many texts, and what a real browser makes of the pages."
import base64
import html
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sentnb.viz.heatmap import N_SHADES, Heatmap, save_page, shade
from sentnb.viz.plots import Picture, bars, loss_curve
from sentnb.viz.report import last_drawn, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage "
         "--virtual-time-budget=4000 --dump-dom").split()


class Spans(HTMLParser):
    "Collects what stands in the `text` element of a heat-map: one entry a span."
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.classes = []
        self.texts = []
        self.depth = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if self.depth: self.depth += tag in ("div", "span")
        elif tag == "div" and dict(attrs).get("class") == "text": self.depth = 1
        if self.depth and tag == "span":
            self.classes.append(dict(attrs)["class"].split())
            self.texts.append("")

    def handle_endtag(self, tag): self.depth -= bool(self.depth)
    def handle_data(self, data):
        if self.depth > 1: self.texts[-1] += data


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60),
       limit=st.floats(.01, 100), seed=st.integers(0, 2**31))
def test_one_span_for_each_byte_with_its_own_shade(text, limit, seed):
    data = text.encode()
    values = np.random.default_rng(seed).normal(0, limit, len(data)).astype(np.float32)
    spans = Spans(Heatmap(text, values, limit=limit)._repr_html_())
    assert len(spans.classes) == len(data)
    assert [c[0] for c in spans.classes] == [f"k{k}" for k in shade(values, limit)]
    shown = re.sub("[\u2400-\u2421]", "", "".join(spans.texts))
    assert shown == re.sub("[\x00-\x08\x0b-\x1f\x7f\u2400-\u2421]|\x0c", "", text)


@given(st.floats(-1e6, 1e6, allow_nan=False), st.floats(1e-3, 1e3))
def test_the_scale_is_symmetric_and_keeps_order(value, limit):
    low, high = shade(np.array([-value, value]), limit)
    assert low + high == N_SHADES - 1
    assert (shade(np.array([value + limit]), limit) >= high).all()


def test_a_long_text_stays_under_a_megabyte_without_a_web_address(tmp_path):
    text = "Zażółć gęślą jaźń, he said. It was — in short — 20,000 characters long!\n" * 280
    assert len(text) > 20_000
    page = save_page(tmp_path / "long.html", Heatmap(text, np.sin(np.arange(len(text.encode())))))
    assert page.stat().st_size < 1_000_000
    assert "http" not in page.read_text()


def dom(page):
    "The page as a browser holds it after its scripts have run."
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_every_byte_has_a_label_and_the_arrow_keys_walk(tmp_path):
    text = "Ł 😀\n\"no\""
    values = np.linspace(-1, 1, len(text.encode()), dtype=np.float32)
    page = save_page(tmp_path / "h.html", Heatmap(text, values, title="A <b>title</b>"))
    keys = """<script>addEventListener('load',()=>{
        const text=document.querySelector('.heat .text');
        for(const key of ['ArrowRight','ArrowRight','ArrowRight','ArrowLeft','End','ArrowRight'])
            text.dispatchEvent(new KeyboardEvent('keydown',{key,bubbles:true}));
        document.title=document.querySelector('.read').textContent;
        document.body.dataset.focus=document.activeElement.title})</script>"""
    page.write_text(page.read_text().replace("</body>", keys + "</body>"))
    seen = dom(page)
    labels = [html.unescape(a) for a in re.findall(r'<span class="k[^>]*aria-label="([^"]*)"', seen)]
    assert len(labels) == len(values)
    assert labels[0] == "Ł, byte 1 of 2 c5, value −1.0000" and labels[2].startswith("space, byte 20")
    assert labels[6].startswith("😀, byte 4 of 4 80")
    assert labels[7].startswith("newline, byte 0a") and labels[-1] == '", byte 22, value +1.0000'
    shown = [float(label.rsplit(" ", 1)[1].replace("−", "-")) for label in labels]
    assert np.allclose(shown, values, atol=5e-5)
    n = len(values)
    assert f"<title>{n} of {n}: " in seen and "data-focus=" in seen    # End, and no step beyond it
    assert "A &lt;b&gt;title" in seen


def test_pictures_are_small_images_with_words():
    picture = bars({"a": 1., "b": 2.}, "bits", ours=["a"], chance=1.5)
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG" and len(data["image/png"]) < 60_000
    assert metadata["image/png"]["alt"] == picture.alt != ""
    unmeasured = pd.DataFrame(dict(step=[1], split=["train"], bits_per_character=[float("nan")]))
    assert loss_curve(unmeasured).alt == "No held-out measurement yet"


@given(st.lists(st.text(alphabet="ab\r", max_size=8), max_size=5))
def test_what_was_overwritten_is_dropped_and_nothing_else(lines):
    out = last_drawn("\n".join(lines))
    assert "\r" not in out and out.count("\n") == max(0, len(lines) - 1)
    for line, kept in zip(lines, out.split("\n")): assert line.rstrip("\r").endswith(kept)


def notebook():
    heat = Heatmap("a café", np.linspace(-1, 1, 7))
    shown = new_output("execute_result", {"text/html": heat._repr_html_(), "text/plain": "Heatmap"})
    drawn = new_output("execute_result", Picture(3, 1)._repr_mimebundle_()[0])
    failed = new_output("error", ename="SentnbError", evalue="the corpus is empty",
                        traceback=["\x1b[31mSentnbError\x1b[0m: the corpus is empty"])
    prose = "# Report of a run\n\nSee [the paper](https://example.org) and `code`.\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    return new_notebook(cells=[
        new_markdown_cell(prose),
        new_code_cell("x = 1", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("heat", outputs=[shown]),
        new_code_cell("picture", outputs=[drawn]),
        new_code_cell("raise", outputs=[failed])])


def test_the_report_is_whole_and_offline(tmp_path):
    nbformat.write(notebook(), tmp_path / "notebook.ipynb")
    page = write_report(tmp_path / "notebook.ipynb").read_text()
    assert "http" not in page and "the paper" in page
    assert "<table>" in page and "data:image/png;base64," in page
    assert "parameters given to this run" in page
    assert page.count("<details>") == page.count("</details>") == 4
    assert "the corpus is empty" in page and "\x1b" not in page
    assert len(Spans(page).classes) == 7


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_report_works_in_a_browser(tmp_path):
    nbformat.write(notebook(), tmp_path / "notebook.ipynb")
    seen = dom(write_report(tmp_path / "notebook.ipynb"))
    assert seen.count('aria-label="') == 8    # seven bytes and the text as a whole
    assert not re.search(r"<details[^>]* open", seen)
