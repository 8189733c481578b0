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

ROOT = Path(__file__).parent.parent
FLOORS = {"core": 0, "runs": 0, "data": 1, "models": 2, "training": 3, "tasks": 4, "viz": 5, "studies": 6, "execute": 7, "cli": 7}
BIN = Path(sys.executable).parent


def tracked() -> list[str]:
    "The files of the checkout: what git tracks, as it stands in the working tree."
    if not (ROOT / ".git").exists(): pytest.skip("not a git checkout")
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [f for f in out.split("\0") if f and (ROOT / f).is_file()]


def notebooks(*rooms) -> list[Path]:
    return [p for room in rooms for p in sorted((ROOT / "nbs" / room).glob("*.ipynb"))]


def test_export_and_clean_change_nothing(tmp_path):
    "nbdev_export and nbdev_clean on a copy leave every file as it is committed."
    files = [f for f in tracked() if f.startswith(("nbs/", "sentnb/")) or f in ("settings.ini", "pyproject.toml", "setup.py")]
    for f in files:
        (tmp_path / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / f, tmp_path / f)
    for command in ("nbdev_export", "nbdev_clean"): subprocess.run([BIN / command], cwd=tmp_path, check=True, capture_output=True)
    changed = [f for f in files if (tmp_path / f).read_bytes() != (ROOT / f).read_bytes()]
    generated = {str(p.relative_to(tmp_path)) for p in (tmp_path / "sentnb").rglob("*.py")}
    assert not changed, f"run `make export` and commit: {changed}"
    assert generated <= set(files), f"not committed: {generated - set(files)}"


def test_parameters_tag_survives_cleaning(tmp_path):
    "nbdev_clean would strip papermill's tag unless settings.ini allows it."
    source = notebooks("experiments")[0]
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "nbs").mkdir()
    copy = Path(shutil.copy(source, tmp_path / "nbs"))
    subprocess.run([BIN / "nbdev_clean", "--fname", str(copy)], cwd=tmp_path, check=True, capture_output=True)
    tags = [c.metadata.get("tags") for c in nbformat.read(copy, 4).cells if c.metadata.get("tags")]
    assert ["parameters"] in tags


def test_readme_is_what_the_index_says():
    from sentnb.viz.pages import readme_text
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme_text(ROOT), "run `make readme` and commit"


def test_results_are_what_the_runs_say():
    from sentnb.viz.pages import results_text
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == results_text(ROOT), "run `make results` and commit"


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sentnb."): yield node.module.split(".")[1]
        if isinstance(node, ast.Import): yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("sentnb."))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "sentnb").parts
    return parts[0].removesuffix(".py")


def test_a_floor_imports_only_floors_below_it():
    modules = [p for p in (ROOT / "sentnb").rglob("*.py") if room(p) in FLOORS]
    uphill = [f"{p.relative_to(ROOT)} imports {there}" for p in modules for there in imports(p) if FLOORS.get(there, 0) > FLOORS[room(p)]]
    assert len(modules) > 10 and not uphill


def test_functions_are_small():
    long = [f"{p.name}:{node.name} {node.end_lineno - node.lineno + 1}" for p in (ROOT / "sentnb").rglob("*.py")
            for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno + 1 > 30]
    assert not long


def test_notebooks_can_be_reviewed():
    "Prose, a bounded number of cells and bytes, a title and a subtitle."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        code = [c for c in cells if c.cell_type == "code"]
        words = sum(len(c.source.split()) for c in cells if c.cell_type == "markdown")
        assert words >= 12 * len(code), f"{path.name}: {words} words of prose for {len(code)} code cells"
        assert len(cells) <= 100 and path.stat().st_size <= 300_000, f"{path.name} is too large to review"
        assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# "), f"{path.name} has no title"


def test_every_experiment_has_parameters():
    from sentnb.execute import declared
    for path in notebooks("experiments"): assert declared(path), path.name


def test_parameter_files_fit_their_notebooks():
    from sentnb.core import read_yaml
    from sentnb.execute import check, declared, find_notebook
    files = sorted((ROOT / "nbs" / "experiments" / "params").glob("*.yaml"))
    assert files
    for f in files: check(read_yaml(f), declared(ROOT / "nbs" / "experiments" / f"{f.name.split('.')[0]}.ipynb"))


def test_nothing_names_a_machine():
    "No absolute folder of somebody's machine in what is committed."
    pattern = re.compile(r"(?<![\w.:/~-])/(home|root|work|tmp|Users)/\w")
    found = [f for f in tracked() if f.endswith((".ipynb", ".py", ".md", ".json", ".jsonl", ".yaml", ".html")) and f != "tests/test_house.py"
             and pattern.search((ROOT / f).read_text(encoding="utf-8"))]
    assert not found


def test_the_repository_is_light():
    big = [f for f in tracked() if (ROOT / f).stat().st_size > 300_000 and not f.startswith(("sentnb/released/", "runs/"))]
    assert not big
    for run in (ROOT / "runs").glob("*/reference*"):
        kept = [ROOT / f for f in tracked() if (ROOT / f).is_relative_to(run)]
        assert sum(p.stat().st_size for p in kept) <= 2_000_000, f"{run.name} is over 2 MB"
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
