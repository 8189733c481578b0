"An installed sentnb is whole: the wheel carries notebooks and parameter files, and runs one far from any checkout."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sentnb.runs import Run

ROOT = Path(__file__).parent.parent
PARTS = ("nbs", "sentnb", "settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A folder into which the freshly built wheel was installed."
    source = tmp_path_factory.mktemp("source")
    target = tmp_path_factory.mktemp("installed")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "-w", source / "dist", source]
    subprocess.run(build, check=True, capture_output=True)
    wheel, = (source / "dist").glob("sentnb-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", target, wheel], check=True, capture_output=True)
    return target


def sentnb(installed, cwd, *args):
    "The installed command, in a folder that is no checkout."
    env = os.environ | dict(PYTHONPATH=str(installed), OMP_NUM_THREADS="1")
    env.pop("SENTNB_RUN", None)
    code = "import sys, sentnb; from sentnb.cli import main; print(sentnb.__file__); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def test_the_wheel_runs_a_notebook_elsewhere(installed, tmp_path):
    done = sentnb(installed, tmp_path, "run", "quickstart", "-f", "tiny", "--name", "x")
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(installed) in done.stdout.splitlines()[0]
    run = Run.open(tmp_path / "runs" / "quickstart" / "x")
    assert run.state == "finished" and (run.folder / "report.html").exists()


def test_the_wheel_gives_its_notebooks_away(installed, tmp_path):
    done = sentnb(installed, tmp_path, "notebooks", "mine")
    assert done.returncode == 0, done.stderr
    ours = {path.name for path in (ROOT / "nbs" / "experiments").glob("*.ipynb")}
    assert ours <= {path.name for path in (tmp_path / "mine").rglob("*.ipynb")}
    assert (tmp_path / "mine" / "experiments" / "params" / "quickstart.tiny.yaml").exists()
    again = sentnb(installed, tmp_path, "notebooks", "mine")
    assert again.returncode == 2 and "is not empty" in again.stderr
