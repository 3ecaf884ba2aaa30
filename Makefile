# SPDX-License-Identifier: Apache-2.0
# Everything is set up by the target that needs it; the stamps in .venv make the second run quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXT := $(wildcard ext/ubisip/core/*.pyx ext/ubisip/core/*.pxd ext/ubisip/core/*.h)
DEBUG_TREE := build/debug
DEBUG_TESTS ?= tests
export UBISIP_TORTURE ?= $(abspath ../shared/torture)
FUZZ_SECONDS ?= 600
JOBS := $(shell nproc)
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.python:
	PYTHON=$(PYTHON) tools/system-packages build
	$(PYTHON) -m venv $(VENV)
	$(PIP) -U pip
	touch $@

# Without build isolation: the Cython that builds now is the one that rebuilds in seconds afterwards.
$(VENV)/.installed: $(VENV)/.python pyproject.toml setup.py
	$(PIP) "setuptools>=77" "cython>=3.1,<4"
	UBISIP_CORE=later $(PIP) --no-build-isolation -e .
	touch $@

$(VENV)/.core: $(VENV)/.installed $(EXT)
	$(BIN)/python setup.py -q build_ext --inplace --parallel $(JOBS)
	touch $@

# The extras of the package as it is installed; nothing is built again.
$(VENV)/.extra-%: $(VENV)/.installed
	$(PIP) "ubisip[$*]"
	touch $@

$(VENV)/.peers: $(VENV)/.python tools/system-packages
	tools/system-packages peers
	touch $@

.PHONY: build
build: $(VENV)/.core ## Virtual environment, dependencies, compiled core

.PHONY: demo
demo: build ## The whole platform on this machine: calls to agents, a server and a gateway die and return
	$(BIN)/python -m ubisip.proxy --demo

.PHONY: test
test: build $(VENV)/.extra-test $(VENV)/.peers ## All tests, real peers included
	$(BIN)/python -m pytest -q

.PHONY: test-faults
test-faults: build $(VENV)/.extra-test $(VENV)/.peers ## The long tests, which make test leaves out: databases, sites, storms; half an hour
	$(BIN)/python -m pytest -q -m long

.PHONY: lint
lint: $(VENV)/.extra-lint ## ruff, mypy --strict, cython-lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint ext  # it calls pycodestyle by name

.PHONY: test-debug
test-debug: $(VENV)/.extra-test ## The tests on a debug build of the core, in a tree of its own (DEBUG_TESTS=tests/...)
	rm -rf $(addprefix $(DEBUG_TREE)/,tests docs fuzz) $(DEBUG_TREE)/ubisip/*.py
	mkdir -p $(DEBUG_TREE)
	tar --exclude='*.so' --exclude=__pycache__ -cf - \
		setup.py pyproject.toml README.md LICENSE ext ubisip tests examples docs fuzz bench/results \
		| tar -xf - -C $(DEBUG_TREE)
	cd $(DEBUG_TREE) && UBISIP_DEBUG=1 ../../$(BIN)/python setup.py -q build_ext --inplace --parallel $(JOBS)
	cd $(DEBUG_TREE) && UBISIP_DEBUG=1 ../../$(BIN)/python -m pytest -q -p no:cacheprovider $(DEBUG_TESTS)

.PHONY: bench
bench: build $(VENV)/.extra-bench ## Side by side with Kamailio and a bare relay; writes docs/performance.md, figures in README.md
	tools/system-packages bench
	$(BIN)/python -m bench

.PHONY: fuzz
fuzz: build $(VENV)/.extra-fuzz ## Every fuzz target for FUZZ_SECONDS (600) each
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS)

.PHONY: wheel
wheel: $(VENV)/.python ## A wheel in dist/
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

.PHONY: clean
clean: ## Remove what was built, the virtual environment included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find ubisip -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
