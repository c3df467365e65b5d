# Two commands: `make demo` shows it working, `make test` proves it. Both make a venv and install into it what
# requirements.lock has. TORCH=cpu (or cu126, ...: uv's --torch-backend) takes another build of torch than PyPI's.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TESTS := --numprocesses auto  # over the cores, see tests/conftest.py
PIP := $(BIN)/python -m pip install --quiet
# Longer than a smoke run, so that the models learn something.
DEMO := $(foreach setting,train.max_steps=120 train.evaluations=2 train.eval_stories=60 evaluation.limit=60 \
	evaluation.superglue.epochs=2,--set $(setting))

# The tests start some hundreds of Pythons: none needs to compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test test-longer simulate gpu lint types lock test-latest test-lowest test-peers docs slurm-up slurm-down clean

demo: $(INSTALLED)
	$(BIN)/submit experiments.yaml --smoke --study quickstart --site local --yes --wait $(DEMO)
	@printf '%s\n' '' 'It works. Next:' \
		'    source $(BIN)/activate' \
		'    status --smoke                        # these four runs, stage by stage' \
		'    tiny-transformers report --smoke      # their scores; it says where the page with tables and figures is' \
		'    tiny-transformers init my-study       # a manifest of your own to start from' \
		'docs/tutorials/laptop.md goes on from here, with ten lines of your own.'

# mypy without its cache has half a minute to do, beside the tests; what it finds is said last.
beside_types = @$(BIN)/mypy > $(VENV)/types 2>&1 & $(1); tested=$$?; \
	wait $$! || { cat $(VENV)/types; exit 1; }; exit $$tested

# What needs neither torch nor SLURM, but for what takes long: before every commit.
check: lint
	$(call beside_types,$(BIN)/python -m pytest $(TESTS) --light)

test: lint
	$(call beside_types,$(BIN)/python -m pytest $(TESTS))

# 1,000 walks through simulated worlds: docs/simulation.md. WALKS has arguments, such as --walks 50000 --from 1000.
simulate: $(INSTALLED)
	$(BIN)/python tests/simulation/run.py $(WALKS)

# What takes minutes each, and further examples of what is tested above.
test-longer: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTS) -m longer

# What a machine with a GPU has to show, in five minutes; ends with a sentence where there is none. GPU has arguments,
# such as --data-root DIR --minutes 15: docs/performance.md.
gpu: $(INSTALLED)
	$(BIN)/python tests/benchmarks/gpu.py $(GPU)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# The newest of everything that pyproject.toml allows, into requirements.lock.
lock: $(INSTALLED)
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 $(RESOLVED) pyproject.toml > $(VENV)/resolved
	grep -vE '$(GPU_PACKAGES)' $(VENV)/resolved > requirements.lock

# The same suite with the newest, and with the oldest, of every range of pyproject.toml, each in a venv of its own.
test-latest: $(VENV)-latest/bin/python
	$(VENV)-latest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)-latest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --group dev --editable .
	$(VENV)-latest/bin/python -m pip list
	$(VENV)-latest/bin/python -m pytest $(TESTS)

test-lowest: $(INSTALLED) $(VENV)-lowest/bin/python
	$(BIN)/uv pip compile --resolution lowest-direct --python $(BIN)/python $(RESOLVED) pyproject.toml > $(VENV)-lowest/resolved
	grep -vE '$(GPU_PACKAGES)' $(VENV)-lowest/resolved > $(VENV)-lowest/requirements
	$(VENV)-lowest/bin/python -m pip install --quiet --requirement $(VENV)-lowest/requirements
	$(VENV)-lowest/bin/python -m pip install --quiet --no-deps --editable .
	$(VENV)-lowest/bin/python -m pip list
	$(VENV)-lowest/bin/python -m pytest $(TESTS)

# torch asks for these by itself, and which they are depends on its build.
GPU_PACKAGES := ^(nvidia-|cuda-|triton)
RESOLVED := --quiet --no-header --no-annotate --no-emit-index-url --group dev

# transformers' own tests on our models: docs/testing.md. PEERS has arguments for pytest.
test-peers: $(INSTALLED)
	$(BIN)/python tests/peers/run.py $(VENV)/peers $(PEERS)

# The pages of docs/ as a site, in site/: docs/index.md. Its tools are in a venv of their own.
docs: $(VENV)-docs/bin/python
	$(VENV)-docs/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)-docs/bin/python -m pip install --quiet --group docs
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --quiet --clean --site-dir site  # without an advertisement

# A real SLURM cluster of DelftBlue's shape on this machine (root, Debian or Ubuntu); prints the SLURM_CONF to export.
slurm-up:
	$(PYTHON) tests/slurm/cluster.py up

slurm-down:
	$(PYTHON) tests/slurm/cluster.py down

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lowest $(VENV)-docs site output

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "requirements.lock is for Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $* || { echo "This Python cannot make a venv; on Debian: apt-get install python3-venv"; exit 1; }

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/python
	if [ -n "$(TORCH)" ]; then $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend $(TORCH) \
		$$(grep ^torch== requirements.lock); fi
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --editable .
	touch $@
