"The explorer without a browser: reading on from an edit, what the widget is told, pages and their escapes."
import base64
import json
import re
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentnb.core import SentnbError
from sentnb.data.tokenizers import CharTokenizer
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.tasks.classify import load_classifier
from sentnb.viz.explorer import LIVE_LIMIT, NeuronExplorer, without_widgets
from sentnb.viz.explorer_parts import Writing, dial_entry, gates, strongest, survey
from sentnb.viz.heatmap import SHADES
from sentnb.viz.live_reader import LiveReader, tokens_of
from sentnb.viz.views import Scale, as_json, byte_values, front_end, page, texts_view

ROOT = Path(__file__).parent.parent
TEXTS = st.text(st.sampled_from("ab <>&;\n\u00e9\u202e\U0001f3ac"), max_size=40)


def small_lm(backbone="mlstm", cleaning="review", **more) -> LanguageModel:
    torch.manual_seed(0)
    config = LMConfig(backbone=backbone, embedding_size=6, hidden_size=9, cleaning=cleaning, **more)
    return LanguageModel(config, CharTokenizer()).eval()


@pytest.fixture(scope="module")
def clf(): return load_classifier(device="cpu")


# reading a text that changes

@pytest.mark.parametrize("backbone, layers, cleaning",
                         [("mlstm", 1, "review"), ("lstm", 2, "none"), ("gru", 1, "tweet")])
@settings(max_examples=12, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), step=st.integers(1, 20))
def test_after_any_edits_the_reader_holds_what_trace_gives(backbone, layers, cleaning, texts, step):
    lm = small_lm(backbone, cleaning, n_layers=layers)
    reader = LiveReader(lm, [2, 7])
    for text in texts:
        reader.change(text)
        if len(text) % 3 == 0: reader.advance(step)        # an edit before the text was read to its end
        else: reader.read_all()
    reader.read_all()
    assert byte_values(reader) == pytest.approx(lm.trace(texts[-1], [2, 7]), abs=1e-5)
    fresh = LiveReader(lm, [2, 7])
    fresh.change(texts[-1])
    fresh.read_all()
    for one, other in zip(reader.facts, fresh.facts):
        if one.dtype != np.int64: assert one == pytest.approx(other, abs=1e-5, nan_ok=True)


def test_surprise_adds_up_to_the_score(clf):
    text = "A na\u00efve & wonderful film."
    reader = LiveReader(clf.lm, [0])
    reader.change(text)
    counted = np.unique(reader.tokens.of_byte)
    bits = reader.read_all().facts.bits[counted[counted >= 0]].sum()
    assert bits == pytest.approx(clf.lm.score([text])[0][0] / np.log(2), abs=.01)


def test_an_edit_in_the_last_forty_characters_takes_less_than_a_tenth_of_a_second(clf):
    "From the message to the answer, on the model that ships, by the time that two cores have in a tenth of a second."
    text = "It begins well, and then the story loses its way. " * 40
    explorer = NeuronExplorer(clf, text=text)
    stamp = read_to_the_end(explorer, text)[-1]["stamp"]
    taken = []
    for place in (1, 40, 20, 40, 39, 40):
        start = time.process_time()
        answer = explorer.answer(dict(kind="type", text=text[:-place] + "x" + text[-place:], stamp=stamp))
        taken.append(time.process_time() - start)
        assert answer["done"] and answer["first"] > answer["total"] - 30
        stamp = answer["stamp"]
    assert np.median(taken) < .2, taken


def read_to_the_end(explorer, text, **more) -> list[dict]:
    "What the browser gets while it reads a text: all answers."
    answers = [explorer.answer(dict(kind="type", text=text, **more))]
    while not answers[-1]["done"]:
        answers.append(explorer.answer(dict(kind="more", text=text, stamp=answers[-1]["stamp"])))
    return answers


def floats(text): return np.frombuffer(base64.b64decode(text), "<f4")


def merged(held: np.ndarray, answers: list[dict]) -> np.ndarray:
    "What the browser holds after some answers."
    for answer in answers:
        held = np.concatenate([held[:answer["first"]], floats(answer["facts"]["series"][0]["values"])])
    return held


def test_an_early_edit_is_answered_in_parts_that_fit_together(clf):
    explorer = NeuronExplorer(clf)
    text = "A wonderful film with a dull ending. " * 30
    held = merged(np.zeros(0, np.float32), read_to_the_end(explorer, text))
    edited = text[:90] + "XY" + text[90:]
    answers = read_to_the_end(explorer, edited, stamp=explorer._stamp)
    assert len(answers) > 3 and 0 < answers[0]["first"] < 24
    held = merged(held, answers)
    unit = explorer.scale.unit
    of_byte = tokens_of(clf.lm, edited).of_byte
    assert held[of_byte] == pytest.approx(clf.lm.trace(edited, [unit])[:, 0], abs=1e-5)


def test_a_newer_text_may_come_before_the_old_one_is_read(clf):
    explorer = NeuronExplorer(clf)
    text = "A wonderful film with a dull ending. " * 30
    first = explorer.answer(dict(kind="type", text=text, stamp=-1))
    assert not first["done"]
    held = merged(np.zeros(0, np.float32), [first])
    answers = read_to_the_end(explorer, "A bad film.", stamp=first["stamp"])
    held = merged(held, answers)
    of_byte = tokens_of(clf.lm, "A bad film.").of_byte
    assert held[of_byte] == pytest.approx(clf.lm.trace("A bad film.", [explorer.scale.unit])[:, 0], abs=1e-5)


def test_two_views_of_one_widget_do_not_mix(clf):
    "A view that has not seen the last answer gets everything."
    explorer = NeuronExplorer(clf)
    one = read_to_the_end(explorer, "The first view.", stamp=-1)[-1]
    explorer.answer(dict(kind="type", text="The second view types.", stamp=-1))
    again = explorer.answer(dict(kind="type", text="The first view!", stamp=one["stamp"]))
    assert again["first"] == 0


# what the widget is told

@given(request=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)))
@settings(max_examples=30, deadline=None)
def test_any_request_gets_an_answer(clf, request):
    explorer = NeuronExplorer(clf)
    assert "error" in explorer.answer(request)
    if isinstance(request, dict): return
    for kind, name in (("type", "text"), ("write", "dial"), ("write", "seed"), ("gates", "text")):
        valid = dict(kind=kind, text="a", prompt="a", dial=0., seed=0, samples=99)
        answer = explorer.answer(valid | {name: request})
        assert "error" in answer or (name, type(request)) == ("text", str)


def test_bad_requests_are_explained(clf):
    explorer = NeuronExplorer(clf)
    for request, says in [(dict(kind="dance"), "no request 'dance'"),
                          (dict(kind="type", text="a", unit=4096), "no unit 4096"),
                          (dict(kind="type", text="a" * (LIVE_LIMIT + 1)), "20,001 characters"),
                          (dict(kind="type", text="\ud800"), "half a surrogate pair"),
                          (dict(kind="write", prompt="a", dial=1e9, seed=0, samples=1), "the dial cannot stand"),
                          (dict(kind="write", prompt="a", dial=0, seed=-1, samples=1), "a seed is")]:
        assert says in explorer.answer(request)["error"]


def test_a_model_needs_cells_and_a_known_unit(tmp_path):
    lm = small_lm()
    with pytest.raises(SentnbError, match="no classifier that names a unit"): NeuronExplorer(lm)
    transformer = small_lm("transformer", n_heads=3, ffn_size=9, max_positions=64)
    with pytest.raises(SentnbError, match="a transformer has no cell"): NeuronExplorer(transformer, Scale(1))
    explorer = NeuronExplorer(lm.save(tmp_path / "model"), 3, texts=["ab", "ba b"])
    assert explorer.scale.unit == 3 and explorer.texts("ab").data["docs"][0]["series"][0]["unit"] == 3
    with pytest.raises(SentnbError, match="this corpus has no labels"): explorer.labels()


def test_the_same_model_twice_does_not_differ(clf):
    lm = small_lm()
    one, other = (NeuronExplorer(model, Scale(3)) for model in (lm, small_lm()))
    assert "At most 0 standard deviations apart" in one.compare(other, "abc").data["about"]
    assert "At most 0 " not in NeuronExplorer(clf).compare(one, "abc").data["about"]      # other tokens, same bytes


@pytest.mark.parametrize("backbone, layers", [("mlstm", 1), ("mlstm", 2), ("lstm", 2)])
def test_gates_make_the_cell(backbone, layers):
    lm = small_lm(backbone, n_layers=layers)
    ids = tokens_of(lm, "abc def").ids
    found = gates(lm, ids, 4)
    before = torch.cat([torch.zeros(1), found["cell"][:-1]])
    assert found["f"] * before + found["i"] * found["u"] == pytest.approx(found["cell"], abs=1e-6)
    with pytest.raises(SentnbError, match="this model is a gru"): gates(small_lm("gru"), ids, 4)


def test_the_dial_off_is_the_plain_sampler(clf):
    writing = Writing(length=20, samples=2, judged=0, seed=5)
    entry = dial_entry(clf.lm, Scale.of(clf.neuron), writing, None, clf)
    plain = clf.lm.generate_samples("This is ", 20, 2, temperature=.7, seed=5)
    assert [doc["text"] for doc in entry["docs"]] == [sample.text for sample in plain]


def test_strongest_places_are_those_of_the_traces():
    lm = small_lm()
    texts = ["abc", "", "a<br>b", "zzz \u00e9", "ABC", "Abc!"]
    seen = survey(lm, texts)
    for unit in range(9):
        for sign in (1, -1):
            scale = seen.scale(unit)
            found = strongest(seen, scale, sign)
            best = [max(sign * scale.standardize(lm.trace(text, [unit])[:, 0])) for text in texts if text]
            assert found[0].value == pytest.approx(sign * max(best), abs=1e-4)
            assert len(found) == 3                        # without the empty one, and "abc" once


# pages

@given(text=st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_no_text_ends_a_script_or_an_attribute(text):
    written = as_json([text])
    assert json.loads(written) == [text]
    assert written.isascii() and "<" not in written and not re.search(r"[\x00-\x1f]", written)


@pytest.mark.parametrize("first, last", [(" ", "~"), ("\u4e00", "\u9fff")])
def test_twenty_thousand_characters_stay_below_a_megabyte(first, last):
    "Noise, which compression cannot help, and a model over bytes, which has the most tokens."
    rng = np.random.default_rng(0)
    text = "".join(map(chr, rng.integers(ord(first), ord(last) + 1, 20_000)))
    assert len(page(texts_view(small_lm(cleaning="none"), {"": text}, [Scale(1)])).encode()) < 1_000_000


def test_a_page_fetches_nothing(clf):
    whole = page(texts_view(clf.lm, {"<x>": "A film."}, [Scale.of(clf.neuron)]))
    assert not re.search(r"https?://|\bsrc=|@import|url\(|<link", whole)
    assert "<x>" not in whole and whole.count("</script>") == 2


def test_the_light_theme_has_the_colours_of_the_heat_map():
    css = front_end("explorer.css")
    light = css[:css.index("data-theme=dark")]
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))
    assert [named[name] for name in ("negative", "ground", "positive")] == [SHADES[0], SHADES[16], SHADES[-1]]
    from sentnb.viz.plots import BLUE, ORANGE
    assert (named["blue"], named["orange"]) == (BLUE, ORANGE)


def luminance(color: str) -> float:
    "WCAG 2.2's relative luminance of #rrggbb."
    parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, [.2126, .7152, .0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted([luminance(a), luminance(b)])
    return (high + .05) / (low + .05)


def test_every_text_can_be_read_in_both_themes():
    "WCAG 2.2, level AA: a contrast of 4.5."
    blocks = re.findall(r"\.sentnb-explorer(?:\[data-theme=dark\])? \{(.*?)\}", front_end("explorer.css"), re.S)[:2]
    for block in blocks:
        named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        pairs = [("on-shade", ground) for ground in ("ground", "negative", "positive")]
        pairs += [(ink, ground) for ink in ("ink", "faint", "wrong") for ground in ("ground", "panel")]
        for ink, ground in pairs: assert contrast(named[ink], named[ground]) >= 4.5, (ink, ground)


# notebooks

def test_the_saved_tour_needs_no_kernel():
    "Outputs are saved in a form that can be read without one, and the notebook is light."
    path = ROOT / "nbs" / "explore" / "sentiment_neuron.ipynb"
    notebook = nbformat.read(path, 4)
    assert path.stat().st_size <= 300_000 and "widgets" not in notebook.metadata
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if "data" in output]
    assert len(shown) >= 8 and all("text/html" in data for data in shown)
    assert without_widgets(notebook) == notebook, "see `without_widgets` in nbs/5_viz/20_explorer.ipynb"


def test_widgets_are_taken_out_of_a_notebook():
    data = {"application/vnd.jupyter.widget-view+json": {}, "text/html": "x"}
    output = nbformat.v4.new_output("display_data", data)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    notebook.metadata.widgets = {}
    clean = without_widgets(notebook)
    assert list(clean.cells[0].outputs[0].data) == ["text/html"] and "widgets" not in clean.metadata
    assert "widgets" in notebook.metadata
