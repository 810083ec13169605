# The commands of the project. Everything happens in .venv; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# One BLAS thread per process: voxcloud shares out the cores itself.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile -q

.PHONY: help demo test services test-all lint format docs reference bench lock install install-dev clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"voxcloud needs Python 3.11 to 3.13, found {v[0]}.{v[1]} as $(PYTHON). Name another one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# The stamp holds the seconds that the installation took.
$(STAMPS)/core: requirements.lock pyproject.toml | $(VENV)/bin/python
	@mkdir -p $(STAMPS)
	@echo "Installing voxcloud into $(CURDIR)/$(VENV) (once) ..."
	@start=$$(date +%s); infra/container/install.sh $(VENV) requirements.lock; echo $$(( $$(date +%s) - start )) > $@

$(STAMPS)/dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@mkdir -p $(STAMPS)
	@echo "Installing voxcloud and its tests into $(CURDIR)/$(VENV) (once) ..."
	@start=$$(date +%s); infra/container/install.sh $(VENV) requirements-dev.lock; echo $$(( $$(date +%s) - start )) > $@
	@[ -e $(STAMPS)/core ] || cp $@ $(STAMPS)/core; touch $(STAMPS)/core

install: $(STAMPS)/core ## Install voxcloud into .venv

install-dev: $(STAMPS)/dev ## Install voxcloud with everything that tests and lint need

demo: $(STAMPS)/core ## Simulate the model study and analyse it (under 6 minutes after installation)
	@start=$$(date +%s); \
	[ -e demo/study/study.yaml ] && [ -e demo/study/truth/truth.json ] || { rm -rf demo/study; $(BIN)/voxcloud simulate demo/study; }; \
	simulated=$$(date +%s); \
	$(BIN)/voxcloud run demo/study/study.yaml; \
	ended=$$(date +%s); \
	report=$(CURDIR)/demo/study/derivatives/voxcloud/report.html; \
	[ -e "$$report" ] || { echo "The run ended without $$report"; exit 1; }; \
	echo; \
	echo "Installation  $$(cat $(STAMPS)/core) s (once)"; \
	echo "Demo          $$(( ended - start )) s ($$(( simulated - start )) s to simulate, $$(( ended - simulated )) s to analyse)"; \
	echo "Report        $$report"

test: $(STAMPS)/dev ## Fast tests: virtual environment only, no root
	$(PYTEST) -m "not slow and not service"

services: ## Install and start what service tests need (Debian packages, root)
	infra/services/up.sh

test-all: $(STAMPS)/dev ## Every test; a skip is a failure when CI=true
	$(PYTEST) $(if $(filter true,$(CI)),--fail-on-skip)

lint: $(STAMPS)/dev ## Format, lint, types, layers, spelling: all of them, even after a failure
	@failed=; \
	check() { echo "-- $$*"; "$(BIN)/$$@" || failed="$$failed $$1"; }; \
	check ruff format --check .; \
	check ruff check .; \
	check mypy --strict voxcloud; \
	check lint-imports --no-cache; \
	check codespell $(SPELLED); \
	[ -z "$$failed" ] || { echo "lint failed:$$failed"; exit 1; }

SPELLED := voxcloud flows infra tests docs changes benchmarks validation terraform README.md Makefile pyproject.toml

format: $(STAMPS)/dev ## Put the code into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: $(STAMPS)/dev ## Write the generated pages of docs/reference
	$(BIN)/python docs/build_reference.py

docs: $(STAMPS)/dev reference ## Build the documentation as web pages in build/docs; broken links are errors
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs
	@echo "Documentation $(CURDIR)/build/docs/index.html"

bench: $(STAMPS)/dev ## Run the benchmarks
	@for script in $(wildcard benchmarks/bench_*.py); do echo "== $$script"; $(BIN)/python $$script; done

lock: $(STAMPS)/dev ## Resolve the locks again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml $(LOCK_ARGS) --all-extras -o requirements-dev.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK_ARGS) --extra build -c requirements-dev.lock -o requirements.lock

# One version of a package for every Python, so that a result does not depend on which Python made it.
LOCK_ARGS := --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

clean: ## Remove the demo and built files (not .venv)
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
