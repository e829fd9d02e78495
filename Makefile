PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
COMPILED := .compiled
NODE_CLIENTS := tests/clients/node

.PHONY: run test test-compiled bench fairness compile soak fuzz mutate check format build clean

## run: start the server (ARGS="--port 9000" passes options on)
run: $(STAMPS)/run
	$(BIN)/heliograph $(ARGS)

## test: everything, against real clients and a real browser
test: $(STAMPS)/dev $(STAMPS)/node $(STAMPS)/system
	$(BIN)/python -m pytest $(ARGS)
ifndef ARGS
	$(MAKE) test-compiled ARGS="tests/fuzz tests/unit $(SOCKETS)"
endif

## test-compiled: the same sources, compiled
test-compiled: $(STAMPS)/compiled
	$(COMPILED)/bin/python -m pytest -m "not interpreted" $(or $(ARGS),tests/fuzz tests/unit tests/integration)

SOCKETS := $(addprefix tests/integration/test_,api.py garbage.py greedy_clients.py http.py slow_readers.py \
	streams.py tls.py tls_streams.py turns.py users.py websocket.py)

## compile: what every event goes through, into an environment of its own (takes a C compiler)
compile: $(STAMPS)/compiled

## bench: every workload beside the plainest server, in ten minutes (ARGS="--help" for more);
##        ARGS="--against REV" compares this tree with the build of a commit instead
bench: $(STAMPS)/dev
	@command -v cc >/dev/null && $(MAKE) --no-print-directory compile || true
	$(BIN)/python -m bench $(ARGS)

## fairness: how long a client waits beside attackers, in seven minutes (ARGS="--help" for more)
fairness: $(STAMPS)/dev
	@command -v cc >/dev/null && $(MAKE) --no-print-directory compile || true
	$(BIN)/python -m bench.fairness $(ARGS)

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

## mutate: plant small faults, one at a time, and show those that no unit test notices (ARGS="--list")
mutate: $(STAMPS)/mutate
	nice $(BIN)/python -m mutate $(ARGS)

build: $(STAMPS)/dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(COMPILED) $(STAMPS) $(NODE_CLIENTS)/node_modules dist build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/run

$(STAMPS)/compiled: $(STAMPS)/dev $(shell find src -name '*.py')
	@command -v cc >/dev/null || { echo "Compiling takes a C compiler, and Python's headers." >&2; exit 1; }
	rm -rf $(COMPILED) $(STAMPS)/dist
	HATCH_BUILD_HOOKS_ENABLE=1 PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --outdir $(STAMPS)/dist . >$(STAMPS)/compiled.log 2>&1 \
		|| { cat $(STAMPS)/compiled.log >&2; exit 1; }
	! grep "warning: Unsupported" $(STAMPS)/compiled.log
	$(PYTHON) -m venv $(COMPILED)
	$(COMPILED)/bin/pip install --quiet --constraint constraints.txt \
		"$$(ls $(CURDIR)/$(STAMPS)/dist/*.whl)[dev]" || { rm -rf $(COMPILED); exit 1; }
	@touch $@

$(STAMPS)/fuzz: $(STAMPS)/dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,fuzz]'
	@touch $@

$(STAMPS)/mutate: $(STAMPS)/dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,mutate]'
	@touch $@

$(STAMPS)/node: $(NODE_CLIENTS)/package.json $(NODE_CLIENTS)/package-lock.json
	@command -v npm >/dev/null || { echo "The tests need Node.js 20.19 or newer, with npm: install them first." >&2; exit 1; }
	npm ci --prefix $(NODE_CLIENTS) --loglevel=error
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/system: tests/install-system.sh
	sh tests/install-system.sh
	@mkdir -p $(STAMPS) && touch $@
