# `make demo` and `make test` are the two commands for a fresh machine: each makes .venv, installs what it
# needs and does its job. The second time nothing is installed, unless a pin or the project file changed.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV ?= .venv
RUN_DIR ?= runs/demo
SEED ?= 0

BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
AUDIT := $(VENV)-audit

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint coverage proof bench docs audit sbom clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ann,demo,dev,jpeg,lambdamart,tune]"
	touch $@

venv: $(STAMP)  ## make .venv with the pinned versions; TORCH=... chooses another torch

demo: $(STAMP)  ## the whole road on the embedded shop; the report's path is the last line
	$(BIN)/catalograph demo --run-dir $(RUN_DIR)

test: $(STAMP)  ## the tests; no network, no accelerator, warnings are errors
	$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(STAMP)  ## the tests with the lines they reach, child processes included; fails under 92 %
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

proof: $(STAMP)  ## the long checks: tests marked slow included, kills at random moments
	CATALOGRAPH_PROOF=1 $(BIN)/python -m pytest -m "slow or not slow" --durations=20

bench: $(STAMP)  ## every benchmark in its quick version; each prints one JSON object as its last line
	@set -e; for file in $$(grep -l -e --quick benchmarks/*.py); do \
		if grep -q "required=True" "$$file"; then echo "== $$file: left out, give it data by hand"; continue; fi; \
		echo "== $$file"; $(BIN)/python "$$file" --quick --seed $(SEED); \
	done

docs: $(STAMP)  ## the pages as a site in site/, with mkdocs-material; broken links are errors
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m mkdocs build

# The tools have an environment of their own: they are no part of what they look at.
$(AUDIT)/installed.stamp: constraints.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit cyclonedx-bom
	touch $@

audit: $(AUDIT)/installed.stamp  ## known vulnerabilities of the pinned versions; fails where one cannot be looked up
	@mkdir -p build
	@{ cat constraints.txt; echo "$(TORCH)"; } > build/audited.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r build/audited.txt

sbom: $(STAMP) $(AUDIT)/installed.stamp  ## what .venv is made of, as CycloneDX: build/sbom.json
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json $(BIN)/python

clean:  ## remove .venv and what builds and checks leave; run folders stay
	rm -rf $(VENV) $(AUDIT) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
