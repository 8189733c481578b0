# Every target makes the environment first when it is missing. Nothing is needed but Python 3.11 to 3.13 and make.
#   make quickstart                       the sentiment neuron of the model that ships, then a small one trained live
#   make quickstart SENTENCE="I love it"  the same, and colors your sentence
#   make test                             every library notebook, then pytest, which runs ruff, too
#   make lab                              JupyterLab in the checkout, with the quickstart opened
#   make docs                             all pages as a site in _docs/site, which needs no server
#   make readme / make results            rebuild README.md / RESULTS.md from notebooks and run folders
#   make bench                            the slow tests (a 2 GB corpus, many kills)
#   make attack / make attack SEED=3      kills, damage, bombs, fuzz, races, hostile pages: how many were tried, and held

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?=
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SEED   ?= 0
export SENTNB_SENTENCE := $(value SENTENCE)
export JUPYTER_PLATFORM_DIRS := 1

.PHONY: quickstart test lab docs readme results bench attack setup export

quickstart: $(READY)
	@if [ -n "$$SENTNB_SENTENCE" ]; then $(BIN)/sentnb run quickstart -p sentence "$$SENTNB_SENTENCE"; else $(BIN)/sentnb run quickstart; fi

test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest -n 2 -m "not slow" tests

bench: $(READY)
	$(BIN)/python -m pytest -m slow tests

attack: $(READY)
	$(BIN)/sentnb run attack -p seed $(SEED)

lab: $(READY)
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (sentnb)"
	@mkdir -p $(VENV)/share/jupyter/lab/settings && cp .jupyter/overrides.json $(VENV)/share/jupyter/lab/settings/
	$(BIN)/jupyter lab --config=.jupyter/jupyter_lab_config.py

docs: $(VENV)/.docs
	$(BIN)/python -m sentnb.studies.site

$(VENV)/.docs: requirements-docs.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

readme: $(READY)
	$(BIN)/python -m sentnb.studies.pages readme && $(BIN)/nbdev_clean --fname nbs/index.ipynb

results: $(READY)
	$(BIN)/python -m sentnb.studies.pages results

export: $(READY)
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean

setup: $(READY)
	$(BIN)/nbdev_install_hooks

$(READY): requirements.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "sentnb needs Python 3.11 to 3.13: try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(if $(TORCH),$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)")
	@touch $(READY)
