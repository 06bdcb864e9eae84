# make demo: a result from nothing; make test: green tests from nothing;
# make test-slow, test-primus, coverage, mutation: the long ones; make install: only the environment;
# make gpu: what only a GPU can show.
PYTHON ?= python3
BIN := .venv/bin
DEMO := data/demo_lpba40

DEVICE ?= cuda
DATA ?= null
OUTPUT ?= outputs/gpu_check

.PHONY: install demo test test-slow test-primus coverage mutation lint gpu

install: .venv/installed

# --constraint pins the releases that were tested; without it a bare `torch` may bring a CUDA build of gigabytes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,sweep]'
	touch $@

demo: install
	$(BIN)/python scripts/prepare_data.py dataset=lpba40 dataset.root=$(DEMO) simulate=13
	$(BIN)/python scripts/train.py dataset=lpba40 dataset.root=$(DEMO) adapter=tcurlora trainer.max_steps=150

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Kills at random moments, hundreds of runs in a row: about half an hour on two cores.
test-slow: install
	$(BIN)/python -m pytest -m slow

# Primus without torchvision, which timm imports and Primus does not need: docs/networks.md.
test-primus: install
	$(BIN)/python -m pip install --quiet --no-deps dynamic-network-architectures==0.4.4 timm==1.0.22
	$(BIN)/python -m pytest -k "primus or openmind or plan_beside"

.venv/quality: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,sweep,quality]'
	touch $@

coverage: .venv/quality
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov tcurlora_seg --cov-report term-missing:skip-covered

# Changes one operator, number or argument at a time and looks whether a test turns red: docs/mutation.md.
mutation: .venv/quality
	mkdir -p mutants/tcurlora_seg  # there before Python starts, which would else forget the folder
	PYTHONPATH=mutants OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

# In .venv where there is one, else with PYTHON as it is: a machine with a GPU may have PyTorch and no network.
# DEVICE=cpu runs it through with the tiny network; DATA=DIR is a folder that holds the Decathlon's Task04_Hippocampus.
gpu:
	PYTHONPATH="$(CURDIR):$$PYTHONPATH" $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) scripts/gpu_check.py \
		device=$(DEVICE) root=$(DATA) output=$(OUTPUT)
