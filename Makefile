PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
NODE_CLIENTS := tests/clients/node

.PHONY: run test bench soak fuzz check format build clean

## run: start the server (ARGS="--port 9000" passes options on)
run: $(STAMPS)/run
	$(BIN)/heliograph $(ARGS)

## test: everything, against real clients and a real browser
test: $(STAMPS)/dev $(STAMPS)/node $(STAMPS)/system
	$(BIN)/python -m pytest $(ARGS)

## bench: every workload beside the plainest server, in ten minutes (ARGS="--help" for more)
bench: $(STAMPS)/dev
	$(BIN)/python -m bench $(ARGS)

## check: lint, format, types, import directions
check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## soak: thousands of clients for 20 minutes, and books that must balance (ARGS="--minutes 5")
soak: $(STAMPS)/dev
	$(BIN)/python -m soak $(ARGS)

## fuzz: hostile bytes for every parser, for 10 minutes (ARGS="--minutes 60")
fuzz: $(STAMPS)/fuzz
	$(BIN)/python -m fuzz $(ARGS)

build: $(STAMPS)/dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(STAMPS) $(NODE_CLIENTS)/node_modules dist build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/run

$(STAMPS)/fuzz: $(STAMPS)/dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,fuzz]'
	@touch $@

$(STAMPS)/node: $(NODE_CLIENTS)/package.json $(NODE_CLIENTS)/package-lock.json
	@command -v npm >/dev/null || { echo "The tests need Node.js 20.19 or newer, with npm: install them first." >&2; exit 1; }
	npm ci --prefix $(NODE_CLIENTS) --loglevel=error
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/system: tests/install-system.sh
	sh tests/install-system.sh
	@mkdir -p $(STAMPS) && touch $@
