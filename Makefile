# make demo: a result from nothing; make test: green tests from nothing; make install: only the environment.
PYTHON ?= python3
BIN := .venv/bin
DEMO := data/demo_lpba40

.PHONY: install demo test lint

install: .venv/installed

# --constraint pins the releases that were tested; without it a bare `torch` may bring a CUDA build of gigabytes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,sweep]'
	touch $@

demo: install
	$(BIN)/python scripts/prepare_data.py dataset=lpba40 dataset.root=$(DEMO) simulate=13
	$(BIN)/python scripts/train.py dataset=lpba40 dataset.root=$(DEMO) adapter=tcurlora

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest
