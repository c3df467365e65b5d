# Two commands: `make demo` shows it working, `make test` proves it. Both make a venv and install into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Longer than a smoke run, so that the models learn something.
DEMO := $(foreach setting,train.max_steps=120 train.evaluations=2 train.eval_stories=60 evaluation.limit=60 \
	evaluation.superglue.epochs=2,--set $(setting))

.PHONY: demo test lint types slurm-up slurm-down clean

demo: $(VENV)/installed
	$(BIN)/submit experiments.yaml --smoke --study quickstart --site local --yes --wait $(DEMO)

test: lint types
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

# A real SLURM cluster of DelftBlue's shape on this machine (root, Debian or Ubuntu); prints the SLURM_CONF to export.
slurm-up:
	$(PYTHON) tests/slurm/cluster.py up

slurm-down:
	$(PYTHON) tests/slurm/cluster.py down

clean:
	rm -rf $(VENV) output

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "This Python cannot make a venv; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed
