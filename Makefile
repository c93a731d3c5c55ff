# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
JOBS ?= 2
BENCH_ARGS ?= --quick
FUZZ_CASES ?= 20000
# Debian packages that tests marked `service` need.
SERVICE_PACKAGES ?= chromium redis-server

# What covers no line that other tests leave out.
CHECKS := tests/test_common.py tests/test_cluster.py tests/test_dask_arrays.py tests/test_house.py \
  tests/test_readme.py tests/attacks/test_pipelines.py tests/fuzz tests/numerics

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUNTIME := $(VENV)/.installed-runtime
TESTS := $(VENV)/.installed-tests
DOCS := $(VENV)/.installed-docs
BENCH := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installs into one environment at once would break it.
.NOTPARALLEL:
.PHONY: help demo test test-services test-benchmarks test-matrix fuzz lint format docs bench dist clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: $(RUNTIME) ## fool a classifier, squeeze its input, judge the result; writes demo_out/
	$(BIN)/python -m sk_advdef demo --out demo_out

test: lint ## lint, types, tests and doctests; fails under 95 % coverage
# Counting lines makes imports and checks of many small calls take twice as long.
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(CHECKS)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(addprefix --ignore=,$(CHECKS)) --cov --cov-report=term

test-services: $(TESTS) ## tests that need a Debian package
	@code=0; $(BIN)/python -m pytest -m service --collect-only -q >/dev/null || code=$$?; \
	if [ $$code -eq 5 ]; then echo "test-services: no test is marked 'service', nothing to run"; exit 0; fi; \
	if [ -n "$(SERVICE_PACKAGES)" ]; then apt-get update -qq && apt-get install -y -qq $(SERVICE_PACKAGES) || exit 1; fi; \
	$(BIN)/python -m pytest -m service

test-benchmarks: $(BENCH) $(TESTS) ## each benchmark in its quick form
	$(BIN)/python -m pytest -n $(JOBS) -m bench tests

test-matrix: $(TESTS) ## the tests with the oldest and the newest versions; half an hour
	$(BIN)/python -m tests.matrix

fuzz: $(TESTS) ## FUZZ_CASES odd inputs and parameters for everything that is public
	SK_ADVDEF_FUZZ=$(FUZZ_CASES) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m fuzz tests/fuzz

lint: $(TESTS) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TESTS) ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS) ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -E -W --keep-going -n -b html docs docs/_build/html

bench: $(BENCH) ## run the benchmarks; BENCH_ARGS= for the long form
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

dist: $(TESTS) ## build wheel and sdist into dist/, install them in an empty environment
	rm -rf dist build
	$(BIN)/python -c "from setuptools.build_meta import build_sdist as b; b('dist')" >/dev/null
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist dist/*.tar.gz
	$(BIN)/python -m tests.check_dist dist

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) .venv-oldest .venv-newest build dist *.egg-info demo_out docs/_build docs/generated docs/gallery docs/api.rst docs/sg_execution_times.rst
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find sk_advdef tests benchmarks docs -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sk_advdef needs Python 3.11 or newer; say which with make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The interpreter is order-only: it is a link, as old as what it points to.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing sk_advdef into $(VENV); the first time takes minutes"
	$(INSTALL) -e ".[plot]"
	@touch $@

$(TESTS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing sk_advdef and its test tools into $(VENV); the first time takes minutes"
	$(INSTALL) -e ".[tests]"
	@touch $@

$(DOCS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing sk_advdef and Sphinx into $(VENV); the first time takes minutes"
	$(INSTALL) -e ".[docs]"
	@touch $@

$(BENCH): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing sk_advdef and what the benchmarks compare with into $(VENV)"
	$(INSTALL) -e ".[bench]"
# baal asks for Jupyter, torchattacks for an old requests and torch-uncertainty for
# seaborn, which nothing here needs; what is imported of them is in the extra.
	$(INSTALL) --no-deps baal torchattacks torch-uncertainty
	@touch $@
