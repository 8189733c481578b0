"An installed sentnb is whole: the wheel carries notebooks and parameter files, and runs one far from any checkout."
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from sentnb.data.datasets import load_dataset
from sentnb.runs import Run

ROOT = Path(__file__).parent.parent
PARTS = ("nbs", "sentnb", "settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
         "CHANGELOG.md", "CITATION.cff")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-deps", "--no-index")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    "A copy of the checkout, without what building leaves."
    folder = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for part in PARTS:
        if (ROOT / part).is_dir(): shutil.copytree(ROOT / part, folder / part, ignore=unwanted)
        else: shutil.copy(ROOT / part, folder / part)
    return folder


def build_wheel(source: Path, target: Path) -> Path:
    "Of a folder or of a source distribution."
    subprocess.run([*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", target, source],
                   check=True, capture_output=True)
    wheel, = target.glob("sentnb-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    "A folder into which the freshly built wheel was installed."
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", *OFFLINE, "--target", target, wheel], check=True, capture_output=True)
    return target


def metadata(wheel: Path):
    "Header fields and the long description."
    with zipfile.ZipFile(wheel) as archive:
        name, = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_the_long_description_leads_somewhere():
    "setup.py's own function on README.md, and on the forms of links that README.md has."
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    function = text[text.index("def with_absolute_links"):text.index("\n\n\nsetup(")]
    names = dict(re=re, cfg=dict(git_url="https://host/u/r", branch="main", user="u", repo="r"))
    exec(function, names)
    absolute = names["with_absolute_links"]
    assert absolute("[a](b.md#c)") == "[a](https://host/u/r/blob/main/b.md#c)"
    assert absolute("![a](b.png)") == "![a](https://raw.githubusercontent.com/u/r/main/b.png)"
    assert absolute("[![a](b.png)](c.md)") == \
        "[![a](https://raw.githubusercontent.com/u/r/main/b.png)](https://host/u/r/blob/main/c.md)"
    assert absolute("[a](https://x) [b](#c)") == "[a](https://x) [b](#c)"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", absolute(readme))
    assert len(links) > 50 and not [link for link in links if not link.startswith(("https://", "#"))]


def test_the_wheel_describes_itself(wheel):
    described = metadata(wheel)
    extras = {"dev", "docs", "elmo", "hub", "excel", "parquet"}
    assert extras == set(described.get_all("Provides-Extra"))
    assert not re.search(r"\]\((?!https://|#)", described.get_payload())
    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
    assert described["Version"] == re.search(r"^version = (.+)$", settings, re.M)[1]
    assert f"## {described['Version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def files_of(wheel: Path) -> dict[str, str]:
    "Name and hash of every file in a wheel, but for the list of these hashes."
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()
                if not name.endswith(".dist-info/RECORD")}


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    sdist, = tmp_path.glob("sentnb-*.tar.gz")
    from_sdist = build_wheel(sdist, tmp_path)
    assert files_of(from_sdist) == files_of(wheel)
    assert from_sdist.name == wheel.name


def environment(**more) -> dict:
    "The environment variables of a user who is in no run and no checkout."
    outside = {name: value for name, value in os.environ.items() if name not in ("SENTNB_RUN", "PYTHONPATH")}
    return outside | dict(OMP_NUM_THREADS="1") | more


def sentnb(installed, cwd, *args):
    "The installed command, in a folder that is no checkout."
    code = "import sys, sentnb; from sentnb.cli import main; print(sentnb.__file__); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=cwd, env=environment(PYTHONPATH=str(installed)), capture_output=True, text=True,
                          timeout=600)


def test_the_wheel_runs_a_notebook_elsewhere(installed, tmp_path):
    done = sentnb(installed, tmp_path, "run", "quickstart", "-f", "tiny", "--name", "x")
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(installed) in done.stdout.splitlines()[0]
    run = Run.open(tmp_path / "runs" / "quickstart" / "x")
    assert run.state == "finished" and (run.folder / "report.html").exists()


def test_the_wheel_gives_its_notebooks_away(installed, tmp_path):
    done = sentnb(installed, tmp_path, "notebooks", "mine")
    assert done.returncode == 0, done.stderr
    for room in ("experiments", "explore", "tutorials"):
        ours = {path.name for path in (ROOT / "nbs" / room).glob("*.ipynb")}
        assert ours == {path.name for path in (tmp_path / "mine" / room).glob("*.ipynb")}
    assert (tmp_path / "mine" / "experiments" / "params" / "quickstart.tiny.yaml").exists()
    again = sentnb(installed, tmp_path, "notebooks", "mine")
    assert again.returncode == 2 and "is not empty" in again.stderr


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    "A new virtual environment, into which pip installs the wheel and all that it asks for."
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--no-compile", "-c", ROOT / "requirements.txt", wheel]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr: pytest.skip("the package index is out of reach")
    assert done.returncode == 0, done.stderr[-2000:]
    subprocess.run([*pip, "check"], env=environment(), check=True, capture_output=True)
    return folder / "bin" / "sentnb"


@pytest.mark.slow
def test_a_fresh_environment_does_what_readme_says(fresh, tmp_path):
    def call(*args, **more):
        done = subprocess.run([fresh, *args], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                              timeout=1800, **more)
        assert done.returncode == 0, (args, done.stderr[-2000:])
        return done.stdout
    assert '"sentnb_label": 1' in call("classify", "-", input="A wonderful film, warm and funny.\n")
    assert len(call("generate", "The film was ", "--length", "20")) > len("The film was ")
    (tmp_path / "mine.txt").write_text("\n".join(load_dataset("movie_reviews")["imdb"].texts[:300]))
    call("train", "mine.txt", "--minutes", "0.2", "--name", "mine")
    assert Run.open(tmp_path / "runs" / "train" / "mine").state in ("finished", "stopped")   # by its time limit
    assert call("generate", "I ", "--length", "10", "--model", "runs/train/mine").startswith("I ")
    call("run", "quickstart", "-f", "tiny", "--name", "x")
    assert Run.open(tmp_path / "runs" / "quickstart" / "x").state == "finished"
