# `make demo` and `make test` need Python 3.11 and nothing else: they set up $(VENV) themselves, once.
VENV ?= .venv
PYTHON ?=
WORKERS ?= 2
ARGS ?=
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo report results test lint format docs lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

$(READY): requirements.txt pyproject.toml packaging/setup.sh $(wildcard packaging/detectron2/*.*)
	@PYTHON="$(PYTHON)" packaging/setup.sh "$(VENV)"
	@touch $@

setup: $(READY) ## install everything into VENV (default .venv); an environment of your own: make setup VENV=<folder>

demo: $(READY) ## Tables 4 and 5 at mini scale for scratch and SimSiam; continues where it was interrupted
	@$(PY) -m benchmarks run table4 table5 --scale mini --rows scratch,scratch_plain,simsiam --output outputs/demo

report: $(READY) ## write the demo's report again from its results
	@$(PY) -m benchmarks report outputs/demo

results: $(READY) ## all rows of Tables 4 and 5 at mini scale, 40 minutes on two cores; kept in results/mini
	@$(PY) -m benchmarks run table4 table5 --scale mini --output outputs/all
	@$(PY) -m experiments.keep_results outputs/all results/mini

# One thread a worker, as two thread pools on two cores slow each other down; a file's tests in one worker, as they
# share what the file's fixtures trained. In the order of their names: by their number of tests, as pytest-xdist has it,
# the files with few and long tests come last, and one worker waits for the other.
test: lint ## everything that CI checks; a part of it: make test ARGS="tests/converters -k proof"
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --durations=15 $(ARGS)

lint: $(READY) ## formatting, style, types, the import table
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(READY) ## format the code and fix what can be fixed
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(READY) ## build the documentation site into site/; a warning or a broken link is an error
	$(PY) -m mkdocs build --strict

# Universal: one file for every system and Python from 3.11 on. No index is named, so that the user's own settings apply.
lock: $(READY) ## write requirements.txt anew from pyproject.toml; UPGRADE=1 takes the newest releases
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) --extra dev \
		pyproject.toml packaging/detectron2/pyproject.toml --output-file requirements.txt

clean: ## remove caches; results in outputs/ and the environment stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .coverage.* htmlcov build dist site *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
