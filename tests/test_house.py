"The house keeps its own rules: generated code, pages, floors, sizes."
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from code_measure import MAX_DENSE_SHARE, dense_share, measure, modules, table_row

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
FLOORS = {"core": 0, "runs": 0, "data": 1, "models": 2, "training": 3, "tasks": 4, "viz": 5, "studies": 6,
          "execute": 7, "cli": 7}
TEXTS = (".ipynb", ".py", ".md", ".json", ".jsonl", ".yaml", ".html")

# Functions that would be harder to read in parts. Each with its reason; one that has become small must leave the list.
LARGE_FUNCTIONS = {
    "recurrent.py:LSTMWindow.forward": "the steps of a window, in the order in which they run",
    "recurrent.py:LSTMWindow.backward": "the same steps backwards, line by line beside the forward pass",
    "recurrent.py:GRUWindow.forward": "the steps of a window, in the order in which they run",
    "recurrent.py:GRUWindow.backward": "the same steps backwards, line by line beside the forward pass",
}


def tracked() -> list[str]:
    "The files of the checkout: what git tracks, as it stands in the working tree."
    if not (ROOT / ".git").exists(): pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [f for f in listed.split("\0") if f and (ROOT / f).is_file()]


def experiments() -> list[Path]:
    return sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))


# what is generated

def test_export_and_clean_change_nothing(tmp_path):
    "nbdev_export and nbdev_clean on a copy leave every file as it is committed."
    top = ("settings.ini", "pyproject.toml", "setup.py")
    files = [f for f in tracked() if f.startswith(("nbs/", "sentnb/")) or f in top]
    for f in files:
        (tmp_path / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / f, tmp_path / f)
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([BIN / command], cwd=tmp_path, check=True, capture_output=True)
    changed = [f for f in files if (tmp_path / f).read_bytes() != (ROOT / f).read_bytes()]
    generated = {str(p.relative_to(tmp_path)) for p in (tmp_path / "sentnb").rglob("*.py")}
    assert not changed, f"run `make export` and commit: {changed}"
    assert generated <= set(files), f"not committed: {generated - set(files)}"


def test_every_module_has_its_notebook():
    "nbdev does not delete the module of a notebook that has gone."
    for path in (ROOT / "sentnb").rglob("*.py"):
        source = re.search(r"File to edit: (\S+\.ipynb)", path.read_text(encoding="utf-8"))
        if source: assert (path.parent / source[1].rstrip(".")).exists(), f"{path.name} has lost its notebook"


def test_parameters_tag_survives_cleaning(tmp_path):
    "nbdev_clean would strip papermill's tag unless settings.ini allows it."
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "nbs").mkdir()
    copy = Path(shutil.copy(experiments()[0], tmp_path / "nbs"))
    subprocess.run([BIN / "nbdev_clean", "--fname", str(copy)], cwd=tmp_path, check=True, capture_output=True)
    tags = [cell.metadata.get("tags") for cell in nbformat.read(copy, 4).cells]
    assert ["parameters"] in tags


def test_readme_is_what_the_index_says():
    from sentnb.studies.pages import readme_text
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme_text(ROOT), "run `make readme` and commit"


def test_the_table_of_notebooks_is_complete_and_up_to_date():
    from sentnb.studies.pages import notebook_table
    table = notebook_table(ROOT)
    cells = nbformat.read(ROOT / "nbs" / "index.ipynb", 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert table in [output.get("data", {}).get("text/markdown") for output in outputs], "run `make readme` and commit"
    linked = set(re.findall(r"\]\(([^)]+\.ipynb)\)", table))
    existing = {f.removeprefix("nbs/") for f in tracked() if f.startswith("nbs/") and f.endswith(".ipynb")}
    assert linked == existing - {"index.ipynb"}


def test_results_are_what_the_runs_say():
    from sentnb.studies.claims import results_text
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert results == results_text(ROOT), "run `make results` and commit"
    assert results.count("\n") <= 130, "RESULTS.md is too long to be read"


def test_every_claim_is_made_once_with_figures_that_were_read():
    from sentnb.studies.claims import CLAIMS, NEEDS, TABLES, VERDICTS, runs_shown, typed_numbers
    questions = [claim.question for claim in CLAIMS]
    assert len(questions) == len(set(questions))
    assert not [t for entry in (*CLAIMS, *TABLES) for t in entry.templates if typed_numbers(t)]
    for claim in CLAIMS:
        assert claim.verdict in VERDICTS, claim.question
        assert (claim.needs in NEEDS) == (claim.verdict in ("owed", "not attempted")), claim.question
    committed = {"/".join(f.split("/")[1:3]) for f in tracked() if f.startswith("runs/")}
    assert runs_shown() == committed


# how it is built

def floor(path: Path) -> str:
    return path.relative_to(ROOT / "sentnb").parts[0].removesuffix(".py")


def imported_floors(path: Path) -> set[str]:
    "The floors that a module imports anywhere, inside functions, too."
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom): names.append(node.module or "")
        if isinstance(node, ast.Import): names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("sentnb.")}


def test_a_floor_imports_only_floors_below_it():
    paths = [path for path in (ROOT / "sentnb").rglob("*.py") if floor(path) in FLOORS]
    uphill = [f"{path.relative_to(ROOT)} imports {there}" for path in paths for there in imported_floors(path)
              if FLOORS.get(there, 0) > FLOORS[floor(path)]]
    assert len(paths) > 10 and not uphill


def test_ruff_has_nothing_to_say():
    "Columns, semicolons, named lambdas, unused names: see ruff.toml."
    done = subprocess.run([BIN / "ruff", "check", "--no-cache", "--output-format", "concise", "nbs", "tests"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_functions_are_small():
    large = {f.name: f for module in modules() for f in module.large}
    assert not {name: f for name, f in large.items() if name not in LARGE_FUNCTIONS}
    assert LARGE_FUNCTIONS.keys() <= large.keys(), "these are small now: take them off the list"


def test_lines_hold_one_thought():
    measured = modules()
    wide = {m.path.name: m.wide for m in measured if m.wide}
    assert not wide
    dense = {m.path.name: m.dense for m in measured if m.dense}
    assert dense_share(measured) <= MAX_DENSE_SHARE, dense


def test_contributing_prints_what_was_measured():
    "`python tests/code_measure.py` prints the row."
    assert table_row(modules()) in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_measure_counts(tmp_path):
    "Tokens without strings and comments, statements without the docstring, lines without nbdev's own."
    long = "x = " + " + ".join(["1"] * 40)
    (tmp_path / "m.py").write_text(
        f'''__all__ = [{", ".join(repr(f"name_{i}") for i in range(30))}]
class C:
    def f(self, a: int):   # a comment of many words
        "A docstring."
        if a: return f"{{a}} and more"
        {long}
''')
    module = measure(tmp_path / "m.py")
    function, = module.functions
    assert (function.name, function.statements) == ("m.py:C.f", 3)
    assert function.tokens == 3 + 1 + 81           # "if a :", "return", the long line
    assert function.all_tokens == function.tokens + 10   # def f ( self , a : int ) :
    assert (module.wide, list(module.dense)) == ([6], [6])


# how it reads

def markdown_cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]


def test_notebooks_can_be_reviewed():
    "A title and a subtitle, a bounded number of cells and bytes."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        assert len(cells) <= 90 and path.stat().st_size <= 300_000, f"{path.name} is too large to review"
        assert re.match(r"# .+\n\n> .+", cells[0].source), f"{path.name} needs a title and a subtitle"


def test_the_spine_is_a_chain():
    "Every notebook of the spine ends with a link to the next one, which opens with a link back."
    from sentnb.studies.pages import spine
    paths = [ROOT / "nbs" / path for path in spine(ROOT)]
    assert len(paths) > 10
    for here, there in zip(paths, paths[1:]):
        link = re.search(r"\*\*Next:\*\* \[[^]]+\]\(([^)]+)\)", markdown_cells(here)[-1])
        assert link, f"{here.name} does not say what to read next"
        assert (here.parent / link[1]).resolve() == there.resolve(), f"{here.name} leads to {link[1]}"
        opening = "\n".join(markdown_cells(there)[:3])
        assert f"{here.name})" in opening, f"{there.name} does not say what it takes from {here.name}"


def broken_links(text: str, folder: Path) -> list[str]:
    "Relative links that lead nowhere."
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text)
    return [link for link in links if not (folder / link).exists()]


def test_links_lead_somewhere():
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        broken = broken_links("\n".join(markdown_cells(path)), path.parent)
        assert not broken, f"{path.name}: {broken}"
    for page in ("README.md", "RESULTS.md", "CONTRIBUTING.md"):
        broken = broken_links((ROOT / page).read_text(encoding="utf-8"), ROOT)
        assert not broken, f"{page}: {broken}"


BRITISH = ("colour", "labelled", "labelling", "neighbour", "behaviour", "favour", "licence", "grey", "centre", "learnt",
           *(word + "is" + end for word in ("standard", "normal", "penal", "minim", "initial", "recogn", "token")
             for end in ("e", "es", "ed", "ing")))


def test_spelling_is_american():
    "One spelling, in prose and in names; what comes from others stays as it is."
    british = re.compile(rf"(?<![a-z])(un|mis)?({'|'.join(BRITISH)})", re.I)
    found = {}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells)
        found[path.name] = {match[0] for match in british.finditer(text)}
    for page in ("README.md", "CONTRIBUTING.md"):
        found[page] = {match[0] for match in british.finditer((ROOT / page).read_text(encoding="utf-8"))}
    assert not {name: words for name, words in found.items() if words}


def test_every_experiment_has_parameters():
    from sentnb.execute import declared
    for path in experiments(): assert declared(path), path.name


def test_parameter_files_fit_their_notebooks():
    from sentnb.core import read_yaml
    from sentnb.execute import check, declared
    files = sorted((ROOT / "nbs" / "experiments" / "params").glob("*.yaml"))
    assert files
    for f in files:
        notebook = f.name.split(".")[0]
        check(read_yaml(f), declared(ROOT / "nbs" / "experiments" / f"{notebook}.ipynb"))


# what is committed

def test_nothing_names_a_machine():
    "No absolute folder of somebody's machine in what is committed."
    pattern = re.compile(r"(?<![\w.:/~-])/(home|root|work|tmp|Users)/\w")
    files = [f for f in tracked() if f.endswith(TEXTS) and f != "tests/test_house.py"]
    assert not [f for f in files if pattern.search((ROOT / f).read_text(encoding="utf-8"))]


def test_the_repository_is_light():
    generated = "sentnb/_modidx.py"    # nbdev's index of all names
    files = [f for f in tracked() if not f.startswith(("sentnb/released/", "runs/")) and f != generated]
    assert not [f for f in files if (ROOT / f).stat().st_size > 300_000]


def test_committed_runs_are_finished_and_light():
    files = [f for f in tracked() if f.startswith("runs/")]
    assert not [f for f in files if "/log/" in f], "logs of processes do not belong into a committed run"
    folders = {"/".join(f.split("/")[:3]) for f in files}
    for folder in folders:
        assert folder.split("/")[2].startswith("reference")
        size = sum((ROOT / f).stat().st_size for f in files if f.startswith(folder + "/"))
        assert size <= 2_000_000, f"{folder} is over 2 MB"
        status = json.loads((ROOT / folder / "status.json").read_text())
        is_stopped = status["state"] == "stopped" and status["message"]       # in good order, and it says why
        assert status["state"] == "finished" or is_stopped, folder


def test_no_style_element_is_needed_to_read_a_committed_run():
    notebooks = [f for f in tracked() if f.startswith("runs/") and f.endswith("notebook.ipynb")]
    assert notebooks and not [f for f in notebooks if "<style" in (ROOT / f).read_text(encoding="utf-8")]
