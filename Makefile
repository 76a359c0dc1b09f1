# The commands of this repository; `make help` lists them. The first run makes .venv and installs.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
WORKERS ?= 2
SPARSAM_SHARED ?= ../shared

# One thread a process: the tests are small, and worker processes share the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test test-data lint format types docs extras bench faults clean

help:  ## list these commands
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 found; sparsam needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; name another one with: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hardware,provenance,shapes]'
	@touch $(READY)

demo: $(READY)  ## train, prune, save, reload and compare a small ViT on handwritten digits
	$(BIN)/sparsam demo

test: lint types  ## lint, types and all quick tests
	$(PYTEST) -n $(WORKERS) --dist worksteal

test-data: $(READY)  ## the tests that read the shared data folder, and the slow ones
	SPARSAM_SHARED=$(abspath $(SPARSAM_SHARED)) $(PYTEST) -m "(data or slow) and not faults and not gpu" -n $(WORKERS) --dist worksteal

lint: $(READY)  ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

docs: $(READY)  ## check every link of the docs and run their code
	$(PYTEST) tests/test_docs.py -m "not gpu"

extras: $(READY)  ## install the runtimes that sparsam bench compares with (ONNX Runtime, OpenVINO), Ray, and what serves over HTTP
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hardware,provenance,shapes,onnx,openvino,distributed,serve]'

bench: extras  ## run every script in benchmarks/ (minutes to hours); tables go to benchmarks/results/
	@for script in benchmarks/*.py; do \
	  if [ -e "$$script" ]; then echo "== $$script"; $(BIN)/python "$$script" || exit 1; fi; done

faults: $(READY)  ## the fault sweeps in their long form, and the short ones (about 4 minutes on two cores)
	$(PYTEST) tests/faults -m "not data and not gpu" -n $(WORKERS) --dist worksteal --timeout 1200

clean:  ## remove the environment and what builds and tests leave behind
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sparsam tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
