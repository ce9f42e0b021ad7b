# `make run` and `make test` are all a new user needs; both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test check guests bench bench-quick format clean

help:  ## Show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sandboxd needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,dev]'
	touch $(STAMP)

install: $(STAMP)  ## Make .venv with everything

run: install  ## Serve the quickstart on 127.0.0.1:3500
	@echo 'When it is ready, try:'; sed -n 's/^# try: /  /p' deploy/quickstart/components/*.yaml
	@exec $(BIN)/sandboxd serve --resources-path deploy/quickstart/components --host 127.0.0.1 --port 3500

test: install  ## All tests
	$(BIN)/python -m pytest

check: install  ## Lint, types, room rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Rewrite to the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

guests: install  ## Rebuild the committed guests from source
	$(BIN)/python -m tests.guests.build

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench  ## The whole benchmark suite
	$(BIN)/python -m bench

bench-quick: install  ## The suite with short runs
	$(BIN)/python -m bench --quick

clean:
	rm -rf $(VENV) .cache build dist
