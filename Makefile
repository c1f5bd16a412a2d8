# Every target works in a fresh clone: the first one called makes the environment in $(VENV).
#   make test PYTHON=python3.12      another interpreter
#   make test ARGS="-k verdict -x"   arguments for pytest
PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
ARGS    ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread per worker: two test processes with two threads each are slower than with one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo demo-elva serve-demo screenshots test test-slow test-distributed test-fault lint evidence evidence-elva tiny-model tiny-embedder bench bench-gpu clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make the environment, or bring it up to date

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "fieldmark needs Python 3.11 or newer, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install one and name it: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' comes without the venv module." >&2; \
	  echo "Install it (Debian, Ubuntu: apt-get install python3-venv) and try again." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train, compare and report on the bundled picture world, without a GPU
	$(BIN)/fieldmark demo $(ARGS)

demo-elva: $(STAMP) ## a universal embedder: stage 2, stage 3 and their controls on the bundled world
	$(BIN)/fieldmark demo-elva $(ARGS)

serve-demo: $(STAMP) ## search the demo's pictures in the browser (make demo comes first)
	$(BIN)/fieldmark demo serve $(ARGS)

screenshots: $(STAMP) ## pictures of each state of the search page, into docs/images/
	$(BIN)/python -m tests.search.screenshots $(ARGS)

test: $(STAMP) ## the tests of every day
	@$(PYTEST) $(ARGS)

test-slow: $(STAMP) ## the tests that take minutes
	@$(PYTEST) -m slow $(ARGS)

test-distributed: $(STAMP) ## the tests with several processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m distributed $(ARGS)

test-fault: $(STAMP) ## the tests that kill processes and damage files
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m fault $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

evidence: $(STAMP) ## the runs behind docs/evidence (resumable)
	$(BIN)/fieldmark evidence $(ARGS)

# The most telling table first; runs that a later one shares are not repeated. ARGS="--dry_run" lists them.
evidence-elva: $(STAMP) ## ELVA's tables in docs/evidence (resumable, hours)
	@set -e; for table in controls ablation mrbench main posttrain heldout weights; do \
	  $(BIN)/fieldmark reproduce elva --table $$table --docs docs/evidence $(ARGS); \
	done

tiny-model: $(STAMP) ## train the bundled model again (resumable)
	$(BIN)/fieldmark tiny-model $(ARGS)

tiny-embedder: $(STAMP) ## train the bundled embedder again (resumable)
	$(BIN)/fieldmark tiny-embedder $(ARGS)

# Files that start with an underscore are shared helpers. ARGS=--short makes a quick pass of it.
bench: $(STAMP) ## every benchmark for the processor, into benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@mkdir -p benchmarks/results
	@set -e; for file in $(filter-out benchmarks/_% benchmarks/gpu_%,$(wildcard benchmarks/*.py)); do \
	  name=$$(basename $$file .py); echo "== $$name"; \
	  $(BIN)/python $$file --json benchmarks/results/$$name.json $(ARGS); \
	done

bench-gpu: $(STAMP) ## one SAGA step at Qwen3-VL-8B's size; needs a GPU of 80 GB
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/gpu_saga_step.py --json benchmarks/results/gpu_saga_step.json $(ARGS)

clean: ## remove caches and builds; keeps the environment and the runs
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
