"A page that carries a model reads as Python reads: opened from disk in Chromium, with the network off."
import shutil
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sentnb.data.tokenizers import CharTokenizer, SentencePieceTokenizer
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.models.sampling import prompt_tokens
from sentnb.runs import Run
from sentnb.studies.across_runs import bits_figures, sentiment_figures, size_chart
from sentnb.studies.cost_model import Work
from sentnb.models.lm import find_model
from sentnb.tasks.classify import TextClassifier, classify, load_classifier
from sentnb.tasks.neurons import Neuron
from sentnb.tasks.regression import LinearClassifier
from sentnb.viz.browser_page import CARRIED, write_browser_page
from sentnb.viz.interactive_plots import Axis, Chart, Layer, Mark, UnitHistory, chart_page, history_view

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOLERANCE = 1e-3     # of the neuron, in standard deviations, and of probabilities

TEXTS = [
    "I was bored at first, but by the end I loved it. A wonderful film.",
    "Great 😀👍🏽 film 👨‍👩‍👧!! ❤️",
    "素晴らしい映画でした。とても面白い！ 好看的电影。",
    "<b>Loved</b> it<br /><br />R&amp;B &lt;3 &notanentity &eacute;t&eacute; &#128512; &#x41;&#0; &ampfoo </textarea>",
    "<script>alert('x')</script> \"quotes\" & 'more' \u202eright to left\u202c \x07\x1b",
    "  spaces \u00a0 and\u2003\u3000 tabs\t\there \n\n lines \u2028 more \x1c\x1d\x85 ",
    "\u2581already a space symbol\u2581 naïve café Ünï𝔠ode ﷽ \U0001F1E9\U0001F1EA",
    "a < b and c > d <3 <- <!-- gone --> <p class='x😀y'>kept</p>",
    " ",
    "x",
    "It broke. " * 30,
]


@pytest.fixture(scope="module")
def browser():
    "Chromium."
    if not CHROMIUM: pytest.skip("no Chromium on this machine")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@contextmanager
def offline_page(browser, path):
    "A page opened from disk, without a network. Errors in its console are errors here."
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append("a dialog opened"))
        page.goto(path.as_uri())
        yield page
    assert not errors


def wait_for(page, selector, **which):
    "The page's policy forbids it to evaluate strings, and so to wait for conditions."
    page.locator(selector, **which).first.wait_for(state="attached", timeout=60_000)


def read(page, text):
    "What the page makes of a text that somebody typed."
    wait_for(page, "body[data-ready]")
    return page.evaluate("text => sentnb.read(text)", text)


def check_same(page, clf, text):
    found = read(page, text)
    trace = clf.neuron.standardize(clf.lm.trace(text, [clf.neuron.unit])[:, 0])
    assert len(found["values"]) == len(text.encode())
    assert np.abs(np.array(found["values"]) - trace).max(initial=0) < TOLERANCE
    expected = classify(clf, text)
    assert (found["probability"] is None) == bool(expected.error)
    if expected.error: return
    assert abs(found["probability"] - list(expected.probability.values())[1]) < TOLERANCE
    assert abs(found["neuron"] - expected.neuron) < TOLERANCE


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    "The classifier of the small model that ships, and its page."
    clf = load_classifier(find_model(CARRIED), device="cpu")
    return clf, write_browser_page(tmp_path_factory.mktemp("page") / "reader.html")


def test_the_page_reads_as_python_does(browser, released):
    "Every byte's value to 1e-3, for emoji, other scripts, markup, control characters and odd spaces."
    clf, path = released
    with offline_page(browser, path) as page:
        for text in TEXTS: check_same(page, clf, text)
        shown = page.evaluate("document.getElementById('paint').textContent")
        assert shown == TEXTS[-1] + "\n"


def test_typing_changes_the_colours_and_shows_text_as_text(browser, released):
    clf, path = released
    with offline_page(browser, path) as page:
        wait_for(page, "body[data-ready]")
        page.fill("#text", "A film. ")
        wait_for(page, "#status", has_text="Read ")
        before = page.evaluate("[...document.querySelectorAll('#paint span')].map(s => s.style.background)")
        page.locator("#text").press("End")
        page.keyboard.type("Awful <b>and</b> <script>alert(1)</script>")
        wait_for(page, "#paint span:nth-child(9)")
        wait_for(page, "#status", has_text="Read ")
        after = page.evaluate("[...document.querySelectorAll('#paint span')].map(s => s.style.background)")
        assert len(after) > len(before) and after != before
        assert page.evaluate("document.querySelectorAll('#paint b, #paint script').length") == 0
        assert "standard deviations" in page.inner_text("#readout")
        boxes = page.evaluate("['paint', 'text'].map(id => document.getElementById(id).getBoundingClientRect().height)")
        assert boxes[0] == boxes[1]


@pytest.mark.slow    # a busy machine disturbs the clock
def test_the_page_is_light_and_its_first_colours_come_soon(browser, released):
    _, path = released
    assert path.stat().st_size < 12e6
    began = time.perf_counter()
    with offline_page(browser, path) as page:
        wait_for(page, "#paint span")
        seconds = time.perf_counter() - began
    print(f"{path.stat().st_size / 1e6:.1f} MB, first colours after {seconds:.2f} s")
    assert seconds < 3


def test_the_colours_lie_behind_their_letters(browser, released):
    "On a phone, with a word that is too long for a line: both layers break alike, and nothing sticks out."
    _, path = released
    with offline_page(browser, path) as page:
        page.set_viewport_size(dict(width=360, height=700))
        read(page, "A " + "very" * 40 + " long word, two  spaces,    more\nand\ttabs 😀 ok.")
        text, paint = (f"document.getElementById('{name}')" for name in ("text", "paint"))
        assert page.evaluate(f"{text}.scrollHeight") == page.evaluate(f"{paint}.scrollHeight")
        assert page.evaluate(f"{text}.clientWidth") == page.evaluate(f"{paint}.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_writes_as_python_does(browser, released):
    "With temperature 0 nothing is left to chance: the same tokens, with the neuron held up, down and left alone."
    clf, path = released
    with offline_page(browser, path) as page:
        wait_for(page, "body[data-ready]")
        for dial in (None, 4., -4.):
            clamp = None if dial is None else {clf.neuron.unit: clf.neuron.cell_value(dial)}
            expected = clf.lm.generate("This is ", 25, clamp, temperature=0)
            request = dict(prompt="This is ", dial=dial, n=25, temperature=0, stopAtEnd=False)
            written = page.evaluate("request => sentnb.write(request)", request)
            assert len(written["ids"]) == prompt_tokens(clf.lm, "This is ").shape[1] + 25
            assert written["text"] == expected


def small_classifier(tokenizer, **settings):
    "An untrained model with a made-up classifier."
    torch.manual_seed(0)
    lm = LanguageModel(LMConfig(vocab_size=tokenizer.n_tokens, hidden_size=30, embedding_size=6, **settings), tokenizer)
    coef = np.random.default_rng(0).normal(0, 2, (1, 60))
    neuron = Neuron(7, 1, .01, .05, 0.)
    return TextClassifier(lm.eval(), LinearClassifier(coef, np.array([.1]), [0, 1]), dict(pool=["mean", "last"]),
                          neuron, {})


def pieces(kind):
    sample = [text.replace("\u2581", "") for text in TEXTS] * 3
    return SentencePieceTokenizer.train(sample, dict(bpe=420, unigram=380, char=340)[kind], kind, coverage=.98)


@pytest.mark.parametrize("name", ["bytes, lstm", "bpe", "unigram", "char"])
def test_other_models_read_the_same(browser, name, tmp_path):
    "Bytes and the three ways of splitting; an LSTM, a head of its own, no weight norm, no cleaning."
    clf = small_classifier(CharTokenizer(), backbone="lstm", cleaning="none") if name == "bytes, lstm" else (
        small_classifier(pieces(name), tied=name == "bpe", weight_norm=name != "char"))
    path = write_browser_page(tmp_path / "small.html", clf, "small")
    with offline_page(browser, path) as page:
        for text in TEXTS[:8]: check_same(page, clf, text)


def test_a_broken_model_is_a_sentence(browser, released, tmp_path):
    "Weights cut short: the page says so, in place of colours that mean nothing."
    _, path = released
    text = path.read_text()
    start = text.index('id="weights">') + len('id="weights">')
    broken = tmp_path / "broken.html"
    broken.write_text(text[:start] + text[start:start + 4000] + text[text.index("</script>", start):])
    with offline_page(browser, broken) as page: wait_for(page, "#status", has_text="could not run the model")


# charts

def example_chart():
    marks = [Mark(x, x * x, f"point {x}; runs/example/{x}", f"runs/{x}.html") for x in (1, 2, 3)]
    layers = [Layer("points", marks),
              Layer("<fit>", curve=[(1, 1), (3, 9)], style=1),
              Layer("a line", level=4., source="a paper", shown=False)]
    return Chart("Squares", Axis("x"), Axis("y"), layers)


def test_a_chart_answers(browser, tmp_path):
    "Keys switch layers, hovering and arrow keys name a mark, a mark is a link to its run."
    path = chart_page("Charts", example_chart()).save(tmp_path / "charts.html")
    with offline_page(browser, path) as page:
        def display(i): return page.locator(f'[data-layer="{i}"]').evaluate("layer => getComputedStyle(layer).display")
        assert [display(i) == "none" for i in range(3)] == [False, False, True]
        page.get_by_label("a line").check()
        page.get_by_label("<fit>").uncheck()
        assert [display(i) == "none" for i in range(3)] == [False, True, False]
        marks = page.locator("[data-said]")
        marks.nth(1).hover()
        assert page.inner_text(".readout") == "point 2; runs/example/2"
        marks.nth(0).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("End")
        assert page.inner_text(".readout") == "point 3; runs/example/3"
        assert page.evaluate("document.activeElement.getAttribute('href')") == "runs/3.html"


def test_a_chart_is_there_without_scripts(browser, tmp_path):
    path = chart_page("Charts", example_chart()).save(tmp_path / "charts.html")
    with browser.new_context(offline=True, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.locator("[data-said]").count() == 3 and page.locator("[data-said] title").count() == 3
        assert page.locator("details tr").count() == 4


def test_the_slider_goes_through_the_training(browser, tmp_path):
    labels = np.repeat([0, 1], 50)
    values = np.stack([gap * labels + np.linspace(0, 1, 100) for gap in (0., 2., 4.)])
    histories = [UnitHistory(7, values, [.5, .8, .9]), UnitHistory(8, -values, [.6, .7, .8], -1)]
    marks = [Mark(step, auc, f"step {step}") for step, auc in zip((10, 20, 30), (.5, .8, .9))]
    below = Chart("AUC", Axis("step"), Axis("AUC"), [Layer("unit 7", marks, joined=True)])
    path = history_view("History", (10, 20, 30), labels, histories, [below]).save(tmp_path / "history.html")
    with offline_page(browser, path) as page:
        heights = "[...document.querySelectorAll('[data-bar]')].map(bar => Number(bar.getAttribute('height')))"
        def bars(): return page.evaluate(heights)
        def cursor(): return float(page.get_attribute(".cursor", "x1"))
        assert page.inner_text("output") == "30" and "0.900" in page.inner_text(".said")
        at_end, right = bars(), cursor()
        page.locator("input[type=range]").press("Home")
        assert page.inner_text("output") == "10" and "0.500" in page.inner_text(".said")
        assert bars() != at_end and max(bars()) > 0 and cursor() < right
        page.select_option("select", label="unit 8")
        assert "Unit 8" in page.inner_text(".said") and "0.600" in page.inner_text(".said")
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Play").wait_for()          # it says Stop meanwhile
        assert page.inner_text("output") == "30"


def test_sizes_of_our_own_get_a_fit(tmp_path):
    "A run of compare_sizes, once there is one: its models are a layer, and a power law goes through those over bytes."
    run = Run.create("compare_sizes", {}, "reference", tmp_path / "runs")
    assert "compare_sizes" in bits_figures(tmp_path)[1]             # it is not finished yet
    def row(units):
        n = Work(hidden_size=units).parameters
        accuracies = dict(sst_all=.6, sst_one=.55, sst_all_low=.58, sst_all_high=.62)
        return dict(hidden_size=units, parameters=n, bits_per_character=9 * n ** -.1, **accuracies)
    run.save_result("sizes", [row(units) for units in (64, 128, 256)])
    run.save_result("pieces", row(256) | dict(bits_per_character=1.))
    run.finish()
    figures, absent = bits_figures(tmp_path)
    assert len(figures) == 4 and "compare_sizes" not in absent
    chart = size_chart(figures)
    ours, fit, *_ = chart.layers
    assert len(ours.marks) == 4 and "0.100th power" in fit.name
    accuracies = sentiment_figures(tmp_path, "sst")
    assert len(accuracies) == 6 and {figure.low for which, figure in accuracies if which == "all"} == {.58}
