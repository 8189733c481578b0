"`make lab`: rooted at the checkout, with the quickstart opened and not changed by being opened."
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / ".jupyter" / "jupyter_lab_config.py"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-dev-shm-usage"]


def settings() -> dict:
    "The names that the configuration file defines."
    from traitlets.config import Config
    names = dict(get_config=Config)
    exec(CONFIG.read_text(encoding="utf-8"), names)
    return names


def test_make_lab_uses_the_configuration():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"jupyter lab --config={CONFIG.relative_to(ROOT)}" in makefile
    assert settings()["c"].LabApp.default_url == "/lab/tree/nbs/experiments/quickstart.ipynb"
    assert json.loads((ROOT / ".jupyter" / "overrides.json").read_text())


def test_reading_adds_what_saving_takes_away():
    "A notebook that is opened and saved is the file that it was."
    names = settings()
    content = json.loads((ROOT / "nbs" / "experiments" / "quickstart.ipynb").read_text(encoding="utf-8"))
    before = json.dumps(content)
    names["as_the_kernel_would"](content["metadata"])
    assert content["metadata"]["language_info"]["version"] == sys.version.split()[0]
    names["without_versions"](dict(type="notebook", content=content))
    assert json.dumps(content) == before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    try: return urllib.request.urlopen(address, timeout=5).status == 200
    except (urllib.error.URLError, OSError): return False


@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab as `make lab` starts it."
    port = free_port()
    env = os.environ | {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", f"--config={CONFIG}", "--no-browser", "--allow-root",
               "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=test"]
    server = subprocess.Popen(command, cwd=ROOT, env=env | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(180):
        if answers(f"{address}/api"): break
        time.sleep(1)
    yield f"{address}/?token=test"
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(30)


@pytest.mark.slow
def test_the_quickstart_is_open_and_clean(lab):
    api = pytest.importorskip("playwright.sync_api")
    if not Path("/usr/bin/chromium").exists(): pytest.skip("there is no Chromium")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(240_000)
        page.goto(lab)
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        page.wait_for_timeout(10_000)
        assert re.search(r"/lab/tree/nbs/experiments/quickstart\.ipynb", page.url)
        assert page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab").all_inner_texts() == ["quickstart.ipynb"]
        assert page.locator(".lm-TabBar-tab.jp-mod-dirty").count() == 0
        browser.close()
