# Every command of the project. `make` alone lists them.

PYTHON ?= python3
TIER ?= quick
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := .demo
DEMO_STAMP := $(DEMO)/.installed

.DEFAULT_GOAL := help
JS_STAMP := js/node_modules/.installed

.PHONY: help demo test check lint types layers js fullstack browser-demo format bench soak clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# Sets itself up: with uv where it is installed, else with venv and pip. The versions are locked.
$(STAMP): pyproject.toml requirements-dev.txt
	@echo "Setting up $(VENV), once: $$(grep -c '==' requirements-dev.txt) packages (about a minute and 700 MB with pip)"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing $(VENV) && \
		uv pip install --python $(BIN)/python -r requirements-dev.txt && \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -r requirements-dev.txt && \
		echo "Installing durably itself" && \
		$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .; \
	fi
	@touch $(STAMP)

# What `pip install durably[cli]` brings a user, and no more.
$(DEMO_STAMP): pyproject.toml
	@echo "Setting up $(DEMO) with durably, pydantic and rich: once, some ten seconds"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing $(DEMO) && \
		uv pip install --quiet --python $(DEMO)/bin/python --editable '.[cli]'; \
	else \
		$(PYTHON) -m venv --without-pip $(DEMO) && \
		$(PYTHON) -m pip --python $(DEMO)/bin/python install -qq --no-compile --editable '.[cli]' || { \
		$(PYTHON) -m venv $(DEMO) && \
		$(DEMO)/bin/python -m pip install -qq --editable '.[cli]'; }; \
	fi
	@touch $(DEMO_STAMP)

demo: $(DEMO_STAMP) ## Run the main job, kill it in the middle, resume it
	@$(DEMO)/bin/durably demo

test: $(STAMP) ## Run the tests (TIER=ci or soak for more of the harnesses)
	DURABLY_TIER=$(TIER) $(BIN)/python -m pytest -n auto --maxprocesses=4

check: lint types layers js ## All that CI runs
	@$(MAKE) --no-print-directory test TIER=ci

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

$(JS_STAMP): js/package.json js/package-lock.json
	@echo "Setting up js/node_modules, once (a minute or less)"
	cd js && npm ci --no-audit --no-fund --loglevel=error
	@touch $(JS_STAMP)

js: $(STAMP) $(JS_STAMP) ## Check and test the npm package (needs Node)
	cd js && npm run check && npm test

fullstack: $(STAMP) ## Set up and open the full-stack example: FastAPI and React
	@cd examples/fullstack && npm ci --silent && npm run --silent build
	@cd examples/fullstack && ../../$(BIN)/python main.py --open

browser-demo: $(STAMP) $(JS_STAMP) ## Set up and serve the example that runs in the browser alone
	@cd js && npm run --silent build
	@$(BIN)/durably browser-bundle examples/browser-only/public/durably --js js/dist
	@cd examples/browser-only && npm ci --silent && npm run --silent build && npm run --silent preview

format: $(STAMP) ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: workers
workers: $(STAMP) ## Open the PostgreSQL example: two workers and a page
	@$(BIN)/python examples/postgres_workers/main.py --open

bench: $(STAMP) ## Measure, beside the peers (installs them)
	$(BIN)/python -m benchmarks

soak: $(STAMP) ## The long tier of the reliability harnesses (see docs/reliability.md)
	$(BIN)/python -m pytest -m soak

clean: ## Remove what was set up
	rm -rf $(VENV) $(DEMO)
