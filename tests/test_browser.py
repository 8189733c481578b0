"The explorer as a person meets it: JupyterLab in a real browser, and exported pages with the network off."
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from sentnb.models.lm import find_model
from sentnb.tasks.classify import load_classifier
from sentnb.viz.explorer import NeuronExplorer
from sentnb.viz.heatmap import SHADES
from sentnb.viz.views import save_views

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None: pytest.skip("there is no Chromium on the path", allow_module_level=True)

ROOT = Path(__file__).parent.parent
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage").split()
TIMEOUT = 300_000      # milliseconds: a machine may be busy
PICTURES = os.environ.get("SENTNB_PICTURES")    # a folder for screenshots, to be looked at


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    "Opens a page with the network off; a test fails at its end if the page did."
    contexts, faults, requests = [], [], []
    def opened(path, **settings):
        context = browser.new_context(offline=True, viewport=dict(width=1100, height=800), **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type != "log" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{path}")
        return page
    yield opened
    for context in contexts: context.close()
    assert not faults and all(address.startswith("file:") for address in requests)


def picture(page, name):
    if PICTURES: page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)


@pytest.fixture(scope="module")
def explorer():
    reviews = ["I loved it, a wonderful film.", "A dull and stupid mess, 90 minutes too long.",
               "Beautiful, moving, perfect.", "The worst \"comedy\" of the year, boring and bad."] * 2
    return NeuronExplorer(load_classifier(find_model(), device="cpu"), texts=reviews, labels=[1, 0, 1, 0] * 2)


# pages

HOSTILE = ('He said "</script><script>document.title=\'owned\'</script>" & </textarea> <img src=x onerror=alert(1)> '
           "naïve \u202eevil\u202c \x00\x1b\x7f tab\there\r\nعربي 👨\u200d👩\u200d👧 e\u0301 𝔘 \u200b\ufeff\u2028 "
           "it's over.")

SHOWN = """heat => [...heat.querySelectorAll('span')].map(s => [...s.childNodes]
    .map(n => n.nodeType === 3 ? n.data : '').join(''))"""


def test_hostile_texts_are_shown_as_text_and_stay_aligned(explorer, open_page, tmp_path):
    page = open_page(explorer.to_html(tmp_path / "page.html", {"<b>Hostile</b>": HOSTILE}))
    spans = page.locator("pre.sn-text > span")
    spans.first.wait_for()
    data = HOSTILE.encode()
    assert spans.count() == len(data)
    shown = page.locator("pre.sn-text").evaluate(SHOWN)
    firsts = [text for text in shown if text]                 # further bytes of a character show a bar
    unseen = {"\u202e", "\u202c", "\x00", "\x1b", "\x7f", "\r", "\u200b", "\ufeff", "\u2028"}
    whole = {"*": "👨\u200d👩\u200d👧", "+": "e\u0301"}          # drawn in one
    text = HOSTILE
    for short, long in whole.items(): text = text.replace(long, short)
    assert firsts == [f"U+{ord(c):04X}" if c in unseen else whole.get(c, c) for c in text]
    assert page.title() != "owned" and page.locator("img, pre script, textarea").count() == 0
    assert page.locator("h3").inner_text() == "<b>Hostile</b>"
    picture(page, "hostile")


def test_values_colours_and_words_are_those_of_the_trace(explorer, open_page, tmp_path):
    text = "A naïve, wonderful film. Then it is the worst."
    page = open_page(explorer.to_html(tmp_path / "page.html", text))
    spans = page.locator("pre.sn-text > span")
    spans.first.wait_for()
    scale = explorer.scale
    values = scale.standardize(explorer.lm.trace(text, [scale.unit])[:, 0])
    colours = spans.evaluate_all("all => all.map(s => getComputedStyle(s).backgroundColor)")
    for value, colour in zip(values, colours):
        shade = SHADES[int(round((min(max(value / 3, -1), 1) + 1) / 2 * 32))]
        assert [int(shade[i:i + 2], 16) for i in (1, 3, 5)] == pytest.approx(rgb(colour), abs=2)
    page.locator("pre.sn-text").focus()
    for _ in range(3): page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == f"n, byte {data_hex('n')}, value {signed(values[2])}"
    assert label in page.locator("[aria-live]").first.inner_text()
    page.keyboard.press("End")
    known = page.locator(".sn-inspector").inner_text()
    assert signed(values[-1]) in known and "bits for the piece" in known and "likeliest next" in known
    assert page.locator(".sn-next li").count() == 5


def rgb(colour: str) -> list[float]:
    "Of `rgb(1, 2, 3)`, or `color(srgb .1 .2 .3)`, which browsers make of a mixture."
    inside = colour[colour.index("(") + 1:-1]
    if colour.startswith("color"): return [255 * float(x) for x in inside.split()[1:4]]
    return [float(x) for x in inside.split(",")[:3]]


def data_hex(char): return char.encode().hex()
def signed(x): return ("−" if x < 0 else "+") + f"{abs(x):.2f}"


def test_every_view_works_from_the_disk_in_both_themes(explorer, open_page, tmp_path):
    views = [explorer.dial([-2, 0, 2, None]), explorer.neurons(), explorer.windows(3), explorer.labels(),
             explorer.gates("A dull start. Then it is wonderful."), explorer.compare(7)]
    path = save_views(tmp_path / "all.html", explorer.texts(), *views, title="All views")
    for theme in ("light", "dark"):
        page = open_page(path, color_scheme=theme)
        page.locator(".sn-gate").first.wait_for()
        assert page.locator("[data-sentnb-view][data-theme=" + theme + "]").count() == 7
        picture(page, f"views-{theme}")
    dial = page.locator("[data-sentnb-view=view-1]")
    before = dial.locator("pre").first.inner_text()
    dial.locator("input[type=range]").fill("2")
    assert "held at +2.0" in dial.inner_text() and dial.locator("pre").first.inner_text() != before
    units = page.locator("[data-sentnb-view=view-2]")
    assert units.locator("tbody tr").count() == 15
    units.locator("input[type=number]").fill("7")
    units.locator("input[type=number]").press("Enter")
    assert "Unit 7" in units.inner_text()
    histogram = page.locator("[data-sentnb-view=view-4]")
    histogram.get_by_role("button", name="best on these texts").click()
    assert "8 of 8 right: accuracy 100.0 %" in histogram.inner_text()
    side = page.locator("[data-sentnb-view=view-6]")
    side.get_by_label("show the difference").check()
    assert side.locator("pre:visible").count() == 3


def test_a_page_is_readable_on_a_narrow_screen(explorer, open_page, tmp_path):
    page = open_page(explorer.to_html(tmp_path / "page.html", "A wonderful film. " * 20))
    page.set_viewport_size(dict(width=380, height=700))
    page.locator("pre.sn-text > span").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    picture(page, "narrow")


# JupyterLab

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab of its own on loopback: its address, and the folder that it shows."
    folder = tmp_path_factory.mktemp("lab")
    port, token = free_port(), secrets.token_hex(16)
    settings = {f"JUPYTER_{name}_DIR": str(folder / f".{name}") for name in ("CONFIG", "DATA", "RUNTIME")}
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    places = dict(PYTHONPATH=path, IPYTHONDIR=str(folder / ".ipython"), JUPYTERLAB_SETTINGS_DIR=str(folder / ".lab"))
    quiet = folder / ".lab" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True"]
    with open(folder / ".log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | settings | places, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={token}", process, folder / ".log")
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset", folder
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address, process, log):
    for _ in range(240):
        if process.poll() is not None: pytest.fail(f"JupyterLab ended: {log.read_text()[-500:]}")
        try: return urllib.request.urlopen(address, timeout=5).read()
        except OSError: time.sleep(.25)
    pytest.fail("JupyterLab did not answer within a minute")


@pytest.fixture
def notebook(lab, browser):
    "The committed notebook in JupyterLab, up to the widget, with all cells run."
    address, folder = lab
    whole = nbformat.read(ROOT / "nbs" / "explore" / "sentiment_neuron.ipynb", 4)
    first = next(i for i, cell in enumerate(whole.cells) if cell.cell_type == "code")
    whole.cells = whole.cells[:first + 1]
    for cell in whole.cells:
        if cell.cell_type == "code": cell.outputs = []
    nbformat.write(whole, folder / "tour.ipynb")
    page = browser.new_page(viewport=dict(width=1300, height=1000))
    page.goto(address.format("tour.ipynb"))
    page.set_default_timeout(TIMEOUT)
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length > 1")
    page.wait_for_function("window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.locator(".sn-tabs").wait_for()
    yield page
    page.close()


def test_a_saved_notebook_is_coloured_without_trust_and_kernel(lab, browser):
    "JupyterLab takes scripts out of what it does not trust; colours and words stay."
    address, folder = lab
    shutil.copy(ROOT / "nbs" / "explore" / "sentiment_neuron.ipynb", folder / "saved.ipynb")
    page = browser.new_page(viewport=dict(width=1300, height=1000))
    page.set_default_timeout(TIMEOUT)
    page.goto(address.format("saved.ipynb"))
    text = page.locator(".jp-OutputArea-output pre").first
    text.wait_for()
    assert "I expected little" in text.inner_text() and page.locator(".sn-tabs").count() == 0
    colours = text.locator("span").evaluate_all("all => all.map(s => getComputedStyle(s).backgroundColor)")
    assert len(set(colours)) > 3
    picture(page, "saved")

    page.evaluate("void window.jupyterapp.commands.execute('notebook:trust')")
    page.locator(".jp-Dialog").get_by_role("button", name="Trust").click()
    page.locator(".jp-OutputArea-output .sn-inspector").first.wait_for()         # now the scripts have run
    if PICTURES: look_around(page, "trusted", 7)
    page.close()


def look_around(page, name, n):
    "Screenshots of a notebook from top to bottom."
    page.mouse.move(700, 500)
    for k in range(n):
        page.mouse.wheel(0, 800)
        page.wait_for_timeout(1500)
        picture(page, f"{name}-{k}")


def test_the_widget_in_jupyterlab(notebook):
    page = notebook
    panel = page.locator(".sn-panel:visible")
    spans = panel.locator("pre.sn-text > span")
    before = spans.evaluate_all("all => all.map(s => s.className)")
    assert len(set(before)) > 3                                # it is coloured
    picture(page, "widget-light")

    box = page.get_by_label("Your text", exact=True)
    box.focus()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Then it is the worst, most boring mess.")
    page.wait_for_function("document.querySelector('.sn-panel:not([hidden]) [data-done]')?.dataset.done === 'true'")
    after = spans.evaluate_all("all => all.map(s => s.className)")
    assert after[:len(before) - 8] == before[:len(before) - 8] and len(after) == len(before) + 40
    assert len(spans.all_inner_texts()) == len(box.input_value().encode())
    assert after[-1] != before[-1]                             # what was typed turned it
    picture(page, "widget-typed")

    page.get_by_role("tab", name="Dial").click()
    dial = page.locator(".sn-panel:visible")
    dial.locator("pre").first.wait_for()
    said = dial.locator("pre").first.inner_text()
    dial.locator("input[type=range]").fill("-3")
    held = dial.locator("p", has_text="held at −3.0 standard deviations;")
    held.wait_for()
    assert dial.locator("pre").first.inner_text() != said
    picture(page, "widget-dial")

    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.locator(".sentnb-explorer[data-theme=dark]").first.wait_for()
    page.get_by_role("tab", name="Text").click()
    picture(page, "widget-dark")
