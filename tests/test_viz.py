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

from sentnb.runs import Run
from sentnb.viz.heatmap import N_SHADES, SHADES, Heatmap, save_page, shade
from sentnb.viz.plots import Picture, bars, label_histogram, loss_curve
from sentnb.viz.report import last_drawn, write_report
from sentnb.viz.tables import ATTRIBUTES, TAGS, clean_html, table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage "
         "--virtual-time-budget=4000 --dump-dom").split()


class Painted(HTMLParser):
    "Reads a heat map as one without scripts sees it: the letters, and a shade for each byte."
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.shades = []
        self.text = ""
        self.inside = []     # of the text's element and the spans in it: a shade, or "unread"
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        style = dict(attrs).get("style", "")
        if tag == "pre": self.inside = [N_SHADES // 2]
        elif self.inside and "user-select" in style: self.inside.append("unread")
        elif self.inside:
            self.inside.append(SHADES.index(style[len("background:"):][:7]))
            if "padding-left" in style: self.shades.append(self.inside[-1])   # a further byte of a character

    def handle_endtag(self, tag): self.inside = self.inside[:-1]

    def handle_data(self, data):
        if not self.inside or self.inside[-1] == "unread": return
        self.text += data
        self.shades += [self.inside[-1]] * len(data)


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60),
       limit=st.floats(.01, 100), seed=st.integers(0, 2**31))
def test_each_byte_has_its_own_shade_without_any_script(text, limit, seed):
    data = text.encode()
    values = np.random.default_rng(seed).normal(0, limit, len(data)).astype(np.float32)
    read = Painted(Heatmap(text, values, limit=limit).html())
    assert read.shades == shade(values, limit).tolist()
    shown = re.sub("[\u2400-\u2421]", "", read.text)
    assert shown == re.sub("[\x00-\x08\x0b-\x1f\x7f\u2400-\u2421]|\x0c", "", text)


@given(text=st.text(max_size=40).filter(lambda t: "\r" not in t), title=st.text(max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_heat_map_is_made_of_nothing_but_what_may_stay(text, title):
    "No script, no style sheet, no attribute that an escape forgot: the net has nothing to remove."
    try: data = text.encode()
    except UnicodeEncodeError: return
    drawn = Heatmap(text, np.zeros(len(data)), title=title, quantity=title).html().replace("\0", "")
    assert html.unescape(clean_html(drawn)) == html.unescape(drawn)


def test_a_title_cannot_leave_the_label():
    drawn = Heatmap("a", [1.], title='" onmouseover="alert(1)').html()
    (label,) = re.findall(r'<pre role="group" aria-label="([^"]*)"', drawn)
    assert html.unescape(label).startswith('" onmouseover="alert(1); 1 bytes')


def test_the_image_survives_any_text():
    text = "Zażółć 😀 漢字 עברית العربية\t$x$ \x00\n" + "w" * 200
    image = Heatmap(text, np.linspace(-1, 1, len(text.encode())), title="$\\frac").png()
    assert image[:4] == b"\x89PNG" and len(image) < 60_000
    assert Heatmap("", []).png()[:4] == b"\x89PNG"


@given(st.floats(-1e6, 1e6, allow_nan=False), st.floats(1e-3, 1e3))
def test_the_scale_is_symmetric_and_keeps_order(value, limit):
    low, high = shade(np.array([-value, value]), limit)
    assert low + high == N_SHADES - 1
    assert (shade(np.array([value + limit]), limit) >= high).all()


def test_a_long_text_stays_under_a_megabyte_without_a_web_address(tmp_path):
    text = "Zażółć gęślą jaźń, he said. It was — in short — 20,000 characters long!\n" * 280
    assert len(text) > 20_000
    page = save_page(tmp_path / "long.html", Heatmap(text, np.sin(np.arange(len(text.encode())) / 20)))
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
        const text=document.querySelector('[data-heat] pre');
        for(const key of ['ArrowRight','ArrowRight','ArrowRight','ArrowLeft','End','ArrowRight'])
            text.dispatchEvent(new KeyboardEvent('keydown',{key,bubbles:true}));
        document.title=document.querySelector('[aria-live]').textContent;
        document.body.dataset.focus=document.activeElement.title})</script>"""
    page.write_text(page.read_text().replace("</body>", keys + "</body>"))
    seen = dom(page)
    labels = [html.unescape(a) for a in re.findall(r'<span [^>]*aria-label="([^"]*)"', seen)]
    assert len(labels) == len(values)
    colors = re.findall(r'<span title=[^>]*style="background: rgb\((\d+, \d+, \d+)\)', seen)
    assert colors == [", ".join(str(c) for c in bytes.fromhex(SHADES[k][1:])) for k in shade(values, 1.)]
    assert labels[0] == "Ł, byte 1 of 2 c5, value −1.0000" and labels[2].startswith("space, byte 20")
    assert labels[6].startswith("😀, byte 4 of 4 80")
    assert labels[7].startswith("newline, byte 0a") and labels[-1] == '", byte 22, value +1.0000'
    shown = [float(label.rsplit(" ", 1)[1].replace("−", "-")) for label in labels]
    assert np.allclose(shown, values, atol=5e-5)
    n = len(values)
    assert f"<title>{n} of {n}: " in seen and "data-focus=" in seen    # End, and no step beyond it
    assert "A &lt;b&gt;title" in seen


def test_pictures_survive_names_and_lone_values():
    assert bars({r"a $\frac name": 1., "x" * 300: 2.}, "$").png()
    histogram = label_histogram(np.r_[np.zeros(500), 1e9], np.r_[np.ones(500, int), 0])
    assert "nan" not in histogram.alt and histogram.png()
    flat = label_histogram(np.zeros(10), np.arange(10) % 2)
    assert flat.svg().startswith(b"<?xml")


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
    shown = new_output("execute_result", heat._repr_mimebundle_()[0])
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
    assert page.count("<img") == page.count("data:image/png") == 1    # a heat map's image stays away
    assert page.count("<script") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_report_works_in_a_browser(tmp_path):
    nbformat.write(notebook(), tmp_path / "notebook.ipynb")
    seen = dom(write_report(tmp_path / "notebook.ipynb"))
    assert seen.count('aria-label="') == 8    # seven bytes and the text as a whole
    assert not re.search(r"<details[^>]* open", seen)


# what others wrote

HOSTILE = (
    "<script>alert(1)</script>", "<!-- <script>", "<![CDATA[<script>", "<![x[<script>]]>", "<![]",
    "<iframe srcdoc='<script>'>", "&lt;script&gt;",
    "<img src=x onerror=alert(1)>", '" onfocus="alert(1)" autofocus x="', "</div></div></main><svg onload=alert(1)>",
    "<form><input formaction=javascript:x><math><mtext><style><img onerror=x>", "src=//evil.example/x",
    "[link](javascript:alert(1))", "<a href='java\tscript:alert(1)'>a</a>", "`code` *x* $\\frac",
    "real<br />break", "</textarea></title></style>", "<style>body{display:none}</style>",
    "\u202eright to left", "😀 \x07 \x00 Ł")


class Page(HTMLParser):
    "Collects elements, attributes and text of a page, and what a browser would run."
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.attributes = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data): self.text += data


def assert_harmless(page: str):
    read = Page(page)
    assert read.tags.count("script") == 1 and read.tags.count("style") == 1     # ours
    assert set(read.tags) <= TAGS | {"html", "head", "meta", "title", "style", "script", "body"}
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert {name for name, _ in read.attributes} <= ATTRIBUTES | {"charset", "name", "content"}
    active = re.compile(r"\s*(javascript|data:text|vbscript):", re.I)
    assert not [value for _, value in read.attributes if value and active.match(value)]


def hostile_notebook(text: str):
    "A notebook that forgets every escape: text as HTML, Markdown, name, title, stream, error, metadata and SVG."
    styled = pd.DataFrame([dict(review=text)]).style.hide(axis="index")._repr_html_()
    forms = [{"text/html": text}, {"text/html": styled}, {"text/markdown": f"*{text}*"}, {"text/plain": text},
             {"image/svg+xml": f"<svg>{text}</svg>"}, {"application/javascript": text}, {"text/latex": text},
             {"text/html": table([{text: text}])._repr_html_()},
             Heatmap(text, np.zeros(len(text.encode())), title=text, quantity=text)._repr_mimebundle_()[0],
             bars({text: 1.}, text)._repr_mimebundle_()[0]]
    outputs = [new_output("display_data", form, metadata={"image/png": {"alt": text, "width": text},
                                                          "text/html": {"isolated": True}}) for form in forms]
    outputs.append(new_output("stream", name="stdout", text=text))
    outputs.append(new_output("error", ename=text, evalue=text, traceback=[text]))
    outputs.append(new_output("display_data", {"text/html": "<p>the end</p>"}))
    return new_notebook(cells=[new_markdown_cell(f"# {text}\n\n{text}"), new_markdown_cell(f"## {text}"),
                               new_code_cell(f"# {text}", metadata={"tags": [text]}, outputs=outputs)])


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_report_runs_whatever_a_notebook_shows(text, tmp_path):
    run = Run.create("experiment", name="r", root=tmp_path)
    run.save_result("summary", [text, 3])
    run.fail(text)
    nbformat.write(hostile_notebook(text), run.folder / "notebook.ipynb")
    page = write_report(run.folder / "notebook.ipynb").read_text()
    assert_harmless(page)
    assert "<p>the end</p>" in page             # and nothing that follows is swallowed
    assert "This run failed" in page
    visible = Page(page).text
    assert visible.count(text.replace("\0", "").strip()) >= 4 or set(text) & set("\0\x07\n*[`")    # shown as text


PIECES = st.sampled_from([
    "<", ">", "/", "a", "b ", "<script>", "</script>", "<style>", "<!--", "-->", "<img src=x ", "onerror=x", "'", '"',
    "=", "&lt;", "&", "<div style='", "url(//x)", "</div>", "<p>", "<table>", "<svg>", "<textarea>", "\0", "\n", "<b",
    "<a href=javascript:x>", "<![CDATA[", "<?x", "]]>", "<![", "<!x", "<![if x]>", "]", "["])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_the_net_lets_through_what_is_on_its_lists_and_closes_it(fragment):
    cleaned = clean_html(fragment)
    read = Page(cleaned)
    assert set(read.tags) <= TAGS and {name for name, _ in read.attributes} <= ATTRIBUTES
    assert "url(" not in "".join(value or "" for _, value in read.attributes if _ == "style")
    assert clean_html(cleaned) == cleaned
    for tag in set(read.tags) - {"img", "br", "hr"}:
        assert cleaned.count(f"<{tag}>") + cleaned.count(f"<{tag} ") == cleaned.count(f"</{tag}>")


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_another_parser_reads_the_same(fragment):
    "html5lib, which follows the browsers' own rules, finds no more elements than Python's parser did."
    from bleach._vendor import html5lib
    tree = html5lib.parseFragment(clean_html(fragment), namespaceHTMLElements=False)
    for element in tree.iter():
        if not isinstance(element.tag, str) or element is tree: continue
        assert element.tag in TAGS | {"colgroup"} and set(element.attrib) <= ATTRIBUTES


def test_a_report_begins_with_what_was_found(tmp_path):
    run = Run.create("experiment", name="r", root=tmp_path)
    run.save_result("summary", ["One unit reaches 73 %.", "All reach 78 %.", "Words reach 80 %."])
    run.finish()
    cells = [new_markdown_cell("# Title\n\n> subtitle"), *[new_markdown_cell(f"## Part {i}") for i in range(4)]]
    nbformat.write(new_notebook(cells=cells), run.folder / "notebook.ipynb")
    visible = Page(write_report(run.folder / "notebook.ipynb").read_text().partition("<main>")[2]).text
    order = ["subtitle", "One unit", "All reach", "Words reach", "experiment, run r", "UTC", "contents", "Part 3"]
    assert sorted(order, key=visible.index) == order
    (run.folder / "status.json").write_text("{damaged")
    assert "Part 3" in write_report(run.folder / "notebook.ipynb").read_text()     # the report is not lost


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_report_fits_a_phone(tmp_path):
    wide = table([{f"a long column name {i}": 1 / 3 for i in range(12)}])._repr_html_()
    book = notebook()
    book.cells.append(new_code_cell("wide", outputs=[new_output("display_data", {"text/html": wide})]))
    book.cells.append(new_code_cell("bars", outputs=[new_output("display_data", Picture()._repr_mimebundle_()[0])]))
    nbformat.write(book, tmp_path / "notebook.ipynb")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright in this environment")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS[1:9])
        page = browser.new_page(viewport=dict(width=390, height=800))
        page.goto(write_report(tmp_path / "notebook.ipynb").as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert width <= 390
