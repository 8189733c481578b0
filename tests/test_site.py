"The site: every link and anchor, on the sources quickly and on the built pages slowly; search without a server."
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md")


def text_of(path: Path) -> str:
    "The Markdown of a page or a notebook, without its code."
    if path.suffix != ".ipynb": text = path.read_text(encoding="utf-8")
    else: text = "\n\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    "The anchors of a page's headings, as code hosts and the site write them."
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_links_and_anchors_of_the_sources():
    "A relative link names a file that exists, and an anchor a heading of it."
    paths = [*(ROOT / page for page in PAGES), *sorted((ROOT / "nbs").rglob("*.ipynb"))]
    paths = [path for path in paths if ".ipynb_checkpoints" not in path.parts]
    broken, n_anchors = [], 0
    for path in paths:
        for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text_of(path)):
            target, _, anchor = link.partition("#")
            file = path.parent / target if target else path
            n_anchors += bool(anchor)
            good = file.exists() and (not anchor or anchor.lower() in anchors(file))
            if not good: broken.append(f"{path.name}: {link}")
    assert not broken and n_anchors


def test_the_workflow_publishes_what_make_builds():
    import yaml
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yaml").read_text())
    steps = flow["jobs"]["build"]["steps"]
    assert {"run": "make docs"} in steps and steps[-1]["with"]["path"] == "_docs/site"
    makefile = (ROOT / "Makefile").read_text()
    assert "docs: $(VENV)/.docs\n\t$(BIN)/python -m sentnb.studies.site" in makefile


def test_the_site_opens_with_the_explorer_where_it_can_be_made(tmp_path, monkeypatch):
    "The page that `sentnb.viz.browser_page` writes stands on top of the first page; a stand-in writes it here."
    from types import SimpleNamespace

    from sentnb.studies import site
    page = SimpleNamespace(write_browser_page=lambda path: Path(path).write_text("<p>explorer</p>"))
    monkeypatch.setitem(sys.modules, "sentnb.viz.browser_page", page)
    monkeypatch.setattr(site, "find_spec", lambda name: name == "sentnb.viz.browser_page")
    made = site.open_site(ROOT, tmp_path)
    title, _, first = site.home_page(made).split("\n", 3)[:3]
    assert title == "# sentnb" and 'src="explorer.html"' in made.parts[first.strip()]
    assert (tmp_path / "source" / "explorer.html").read_text() == "<p>explorer</p>"


class Links(HTMLParser):
    "What a page links to, loads, and calls by an id."
    def __init__(self):
        super().__init__()
        self.links, self.loads, self.ids = [], [], {""}

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("id"): self.ids.add(found["id"])
        if tag == "a" and found.get("href"): self.links.append(found["href"])
        if tag in ("img", "script", "iframe") and found.get("src"): self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon"): self.loads.append(found["href"])


def parsed(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if not find_spec("material"): pytest.skip("the extra docs is not installed")
    from sentnb.studies.site import build
    return build(ROOT, tmp_path_factory.mktemp("docs")).parent


@pytest.mark.slow
def test_every_link_of_the_site(site):
    pages = {page: parsed(page) for page in site.rglob("*.html") if page.name not in ("404.html", "report.html")}
    assert len(pages) > 150
    broken = []
    for page, found in pages.items():
        for link in found.links + found.loads:
            if re.match(r"(https?|mailto|data|javascript):", link): continue
            target, _, anchor = unquote(link).partition("#")
            file = (page.parent / target).resolve() if target else page
            known = pages[file].ids if file in pages else {anchor}
            if not file.exists() or anchor not in known: broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


@pytest.mark.slow
def test_the_site_asks_no_other_host(site):
    for page in site.rglob("*.html"):
        if page.name == "report.html": continue
        assert not [load for load in parsed(page).loads if re.match(r"(https?:)?//", load)], page.name


@pytest.mark.slow
def test_the_spine_has_next_links(site):
    from sentnb.studies.pages import spine
    for here, there in zip(spine(ROOT), spine(ROOT)[1:]):
        page = site / "nbs" / here.with_suffix(".html")
        link = re.search(r'href="([^"]+)" class="md-footer__link md-footer__link--next"', page.read_text())
        assert (page.parent / link[1]).resolve() == (site / "nbs" / there.with_suffix(".html")).resolve()


@pytest.mark.slow
def test_the_search_works_from_disk(site):
    "In Chromium, with the page opened as a file; errors of scripts count as failures."
    api = pytest.importorskip("playwright.sync_api")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists(): pytest.skip("there is no Chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-dev-shm-usage"]
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(chromium), args=flags)
        page = browser.new_page()
        page.set_default_timeout(240_000)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"file://{site}/index.html")
        page.fill(".md-search__input", "clamp")
        page.wait_for_selector(".md-search-result__link")
        assert "md-search-result__item" in page.content() and not errors
        browser.close()


def test_the_builder_is_a_command():
    done = subprocess.run([sys.executable, "-m", "sentnb.studies.site"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and "usage, inside a checkout" in done.stderr


def test_the_workflow_tests_what_readme_promises():
    "Every Python and system of README's sentence, and the oldest torch that settings.ini allows."
    import yaml
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yaml").read_text())
    matrix = flow["jobs"]["test"]["strategy"]["matrix"]["include"]
    first, last = re.search(r"Python 3\.(\d+) to 3\.(\d+)", (ROOT / "README.md").read_text()).groups()
    assert {entry["python"] for entry in matrix} == {f"3.{n}" for n in range(int(first), int(last) + 1)}
    assert {entry["os"].split("-")[0] for entry in matrix} == {"ubuntu", "macos"}
    oldest = re.search(r"torch>=([\d.]+)", (ROOT / "settings.ini").read_text())[1]
    assert f"{oldest}.*" in {entry["torch"] for entry in matrix}


def test_templates_ask_for_the_run_folder():
    import yaml
    for name in ("bug", "result"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yaml").read_text())
        asked = {part["id"]: part for part in form["body"]}
        assert asked["run"]["validations"]["required"] and "run folder" in asked["run"]["attributes"]["label"].lower()
    assert "run folder" in (ROOT / ".github" / "pull_request_template.md").read_text()
    command = re.search(r"python -c \"(.+?)\"", (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yaml").read_text())[1]
    assert "'python'" in subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout
