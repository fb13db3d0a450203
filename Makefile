# On a fresh clone `make train` and `make test` set up everything they need, then do their job.
# `make test VENV=.venv313 PYTHON=python3.13` tests another Python, in an environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: train native test test-slow badinput lint docs help clean

help:
	@echo "make train      train LeNet-5 on digits (a minute, no data needed)"
	@echo "make native     oneDNN for convolutions on this CPU (make native train)"
	@echo "make test       the whole fast test suite"
	@echo "make test-slow  the long tests"
	@echo "make badinput   thousands of bad inputs, others every day, to every command"
	@echo "make lint       formatting, lint, import contracts, types"
	@echo "make docs       the documentation as pages, in site/"
	@echo "make clean      remove the virtual environment"

train: $(VENV)/.installed
	$(BIN)/jaxcnn train experiments/lenet5_digits.py

native: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[native]'
	$(BIN)/jaxcnn native build

test: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(VENV)/.installed-test
	XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/pytest -m slow --timeout 3600 $(ARGS)

badinput: $(VENV)/.installed-test
	BADINPUT_SEED=$${BADINPUT_SEED-$$(date +%Y%m%d)} $(BIN)/pytest tests/badinput -m slow -n 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Strict: a link that leads nowhere, or a page that no navigation shows, is an error (not so with
# --quiet, by which MkDocs counts no warnings). The variable leaves out Material's note on the future
# of MkDocs.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html; to search it: $(BIN)/mkdocs serve"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 15) else "jaxcnn needs Python 3.11 to 3.14")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV)
