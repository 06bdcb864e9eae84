# make demo: a result from nothing; make test: green tests from nothing;
# make test-slow: the long ones; make install: only the environment.
PYTHON ?= python3
BIN := .venv/bin
DEMO := data/demo_lpba40

.PHONY: install demo test test-slow lint

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
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Kills at random moments, hundreds of runs in a row: about half an hour on two cores.
test-slow: install
	$(BIN)/python -m pytest -m slow
