# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/quickstart.yaml

.PHONY: help quickstart test test-browser slow-test release-check pages lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch first and pinned: anything newer that another package would pull in costs gigabytes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0

$(VENV)/.%-installed: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

quickstart: $(VENV)/.quickstart-installed  ## install, then embed, train, evaluate and index a real model (minutes)
	$(BIN)/python recipes/python_docs.py data/python_docs.parquet
	$(BIN)/csr-hf run $(RECIPE)

test: $(VENV)/.tests-installed  ## install what tests need and run them
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-browser: $(VENV)/.tests-installed $(VENV)/.test-browser-installed  ## the page of csr-hf demo, in Debian's chromium
	$(BIN)/python -m pytest -m browser tests/demo

slow-test: $(VENV)/.tests-installed  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

release-check: $(VENV)/.tests-installed  ## build wheel and sdist, install each into an empty environment and try it
	CSR_HF_RELEASE_CHECK=1 $(BIN)/python -m pytest -m slow tests/test_release.py

pages: $(VENV)/.dev-installed  ## write the tables of the pages from the results files
	$(BIN)/python recipes/render.py

lint: $(VENV)/.dev-installed  ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/mypy

clean:  ## remove the virtual environment and all runs
	rm -rf $(VENV) runs *.egg-info
