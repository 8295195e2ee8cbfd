# Every target makes the environment first if it is missing: a machine needs Python >= 3.11 and make.
# Paths are relative, so that the folder may stand anywhere; `python -m` needs no script's first line.

PYTHON ?= python3
DEVICE ?= cuda
WORKERS ?= 2

READY := .venv/.ready
RUN := .venv/bin/python -m
NOTEBOOKS := .venv/bin/python tools/run_notebooks.py

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup run-all run-full test quick portable refresh lint fix lab site e2e bench weights photos leakage \
  tables lock clean

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Threads that wait by spinning slow small operations many times over when the cores are busy.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 1000
# Sums depend on the number of threads: outputs are made and checked with one, a worker a core. One
# is also quicker than two for small networks wherever the cores have anything else to do.
run-all test quick refresh: export OMP_NUM_THREADS := 1

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv and install the kit there, editable, with all extras

# A set-up that was killed may have left half a package behind: then .venv is made anew.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: the kit needs Python 3.11 or newer, and $(PYTHON) is older;" \
	    "name one: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@if [ -e .venv/.installing ]; then rm -rf .venv; fi
	@echo "make: installing into .venv (some minutes and 6 GB the first time: torch is large)"
	$(PYTHON) -m venv .venv
	@trap 'exit 130' INT TERM; touch .venv/.installing; \
	  $(RUN) pip install --disable-pip-version-check --no-input \
	    --constraint requirements.lock --editable '.[notebooks,dev]' && touch $(READY); \
	  status=$$?; rm -f .venv/.installing; exit $$status

run-all: $(READY) ## run every notebook, fast on a CPU, into build/
	$(NOTEBOOKS) build --out build --timeout 600

run-full: $(READY) ## run every notebook with its full parameters, into build/full (DEVICE=cuda)
	$(NOTEBOOKS) build --out build/full -p FAST False -p DEVICE $(DEVICE)

test: $(READY) ## unit tests, and every notebook's outputs against the committed ones
	$(RUN) pytest tests notebooks --nbval --nbval-current-env --nbval-cell-timeout 600 \
	  --numprocesses $(WORKERS) --dist loadscope

# tests/data, the doctests and the tests that are named after a file of the core, but for those that run
# notebooks or several processes.
QUICK := tests/data tests/test_doctests.py $(sort $(filter-out tests/test_notebook% tests/test_engine%, \
  $(wildcard $(patsubst fss/%.py,tests/test_%*.py,$(wildcard fss/*.py)))))

quick: lint ## the inner loop: lint, types and the core's tests without the slow ones (a minute on two cores)
	$(RUN) pytest -q $(QUICK) -m "not slow" --numprocesses $(WORKERS)

portable: $(READY) ## notebooks, and tests of numbers, as other processors compute (30 minutes; FULL=1: more)
	.venv/bin/python tools/portable.py $(if $(FULL),--full)

refresh: $(READY) ## run every notebook in place, fast and seeded, for its committed outputs
	$(NOTEBOOKS) refresh

lint: $(READY) ## style, formatting and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

fix: $(READY) ## correct what ruff can correct safely, and format
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

lab: $(READY) ## open the first notebook in JupyterLab
	$(RUN) jupyter lab notebooks/00_start_here.ipynb

site: $(READY) ## write all notebooks, as they ran, and the API reference as HTML into build/site
	.venv/bin/python tools/site.py

# `make test` runs the same tests where the two packages and a Chromium are installed.
e2e: $(READY) ## install playwright, and Chromium where there is none, and test in the browser
	$(RUN) pip install --disable-pip-version-check --no-input --quiet \
	  --constraint requirements.lock --editable '.[e2e]'
	command -v chromium || command -v google-chrome || $(RUN) playwright install chromium
	FSS_COURSE=1 $(RUN) pytest tests/e2e

bench: $(READY) ## time the kit and every notebook on this machine (eight minutes), and the memory
	.venv/bin/python tools/bench.py
	$(RUN) pytest -q -rs tests/e2e -k fifty_clicks  # in the browser, where make e2e has been
	$(MAKE) tables

weights: $(READY) ## train, measure and ship the weights of drawn shapes (an hour): make weights SCENES=path
	@[ -d "$(SCENES)" ] || { echo "give a folder of pictures with masks: make weights SCENES=path"; exit 2; }
	SCENES="$(SCENES)" $(RUN) fss ablate results/shipped-shapes
	for arm in published intended best; do \
	  .venv/bin/python tools/ship.py results/shipped-shapes shapes/$$arm-0 $$arm-lite0-shapes || exit; \
	done
	$(MAKE) tables

photos: $(READY) ## train, measure and ship the weights for one's own pictures: make photos PHOTOS=path SCENES=path
	@[ -d "$(PHOTOS)" ] && [ -d "$(SCENES)" ] || \
	  { echo "give two folders of pictures: make photos PHOTOS=path SCENES=path [WITHOUT=file] [ALONE=classes]"; exit 2; }
	# build/mixed is gone on with; for other pictures, make clean first
	[ -d build/mixed ] || .venv/bin/python tools/mix.py "$(PHOTOS)" "$(SCENES)" build/mixed \
	  $(if $(WITHOUT),--without "$(WITHOUT)") $(if $(ALONE),--alone $(ALONE))
	MIXED=build/mixed PHOTOS="$(PHOTOS)" $(RUN) fss ablate results/shipped-photos
	.venv/bin/python tools/ship.py results/shipped-photos own/best-0 best-lite0-photos
	.venv/bin/python tools/qualitative.py build/photos --data "folder:$(PHOTOS)" \
	  --checkpoint best-lite0-photos
	$(MAKE) tables

leakage: $(READY) ## train on the test classes and without them, and measure both (10 minutes)
	$(RUN) fss ablate results/leakage
	$(MAKE) tables

tables: $(READY) ## put the measured numbers of results/, and how the kit is built, into README.md and docs/
	.venv/bin/python tools/render_tables.py
	.venv/bin/python tools/layers.py

lock: $(READY) ## pin the newest releases within the ranges, install and test them
	.venv/bin/python tools/lock.py
	$(MAKE) test

clean: ## remove build/ and the tools' caches (.venv, runs/ and the cached features stay)
	rm -rf build dist fss_attention_kit.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fss tests tools notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
