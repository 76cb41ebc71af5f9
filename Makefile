# make run · make test · make check: each sets up what it needs, from an empty checkout, as often as you like.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup run viewer test soak check format bench conformance test-tools r4-tables clean

help: ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/' | expand -t 14

setup: $(STAMP) ## the virtual environment with everything in it

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

run: $(STAMP) ## start the server with demo data on http://127.0.0.1:8000
	@if command -v npm >/dev/null; then $(BIN)/fhirserver viewer install || true; fi
	$(BIN)/fhirserver demo --serve

viewer: $(STAMP) ## fetch the image viewer, OHIF, by npm; without it images open as plain pages
	$(BIN)/fhirserver viewer install

test: $(STAMP) ## every test
	$(BIN)/python -m pytest

soak: $(STAMP) ## 10,000 malformed requests; the reading network at random for 50,000 steps; SOAK_STEPS=n for others
	FHIRSERVER_SOAK_STEPS=$(or $(SOAK_STEPS),50000) $(BIN)/python -m pytest -n 0 -s \
	  tests/fhir/test_malformed.py tests/workflow/test_state_machine.py

check: $(STAMP) ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## the table of speed and memory
	$(BIN)/python bench/rest.py
	$(BIN)/python bench/workflow.py

conformance: $(STAMP) ## write docs/conformance.md and docs/smart-requirements.md
	$(BIN)/python -m fhirserver.conformance > docs/conformance.md
	$(BIN)/python tests/auth/requirements.py

test-tools: ## programs beyond Python that some tests use (Debian)
	@for tool in dcmdump:dcmtk node:nodejs npm:npm chromium:chromium; do \
	  command -v $${tool%:*} >/dev/null || (apt-get update -qq && apt-get install -y -qq $${tool#*:} >/dev/null) \
	  || echo "test-tools: $${tool#*:} could not be installed (Debian, as root); the tests that use it will be skipped"; done

r4-tables: $(STAMP) ## make fhirserver/r4/*.json again from the official package
	$(BIN)/python fhirserver/r4/generate.py

clean: ## remove what these commands made, but not the data folder
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
