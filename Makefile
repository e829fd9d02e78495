PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
COMPILED := .compiled
NODE_CLIENTS := tests/clients/node

# The suites under tests/ in the order in which `make test` runs them: fast ones first, so that a
# failure shows early. A suite that is not named here runs in the middle.
MEASURED_SUITES := unit integration
FAST_SUITES := docs conformance webhooks packaging fuzz
SLOW_SUITES := clients bench fairness soak
# Beside the suites that mostly wait, after the build is compiled: it compiles once more, in an image.
BACKGROUND_SUITE := ops
ALL_SUITES := $(sort $(patsubst tests/%/,%,$(dir $(wildcard tests/*/test_*.py))))
OTHER_SUITES := $(filter $(ALL_SUITES),$(FAST_SUITES)) \
	$(filter-out $(MEASURED_SUITES) $(FAST_SUITES) $(SLOW_SUITES) $(BACKGROUND_SUITE),$(ALL_SUITES)) \
	$(filter $(ALL_SUITES),$(SLOW_SUITES))

# For tests that need no time of their own: on all cores. Others could disturb each other.
ALL_CORES := -n auto --dist worksteal
# The same for tests that share a server with those of their file.
FILES_ON_ALL_CORES := -n auto --dist loadfile

# Before the first suite that measures.
WAIT_FOR_BACKGROUND = wait $$background || { cat $(STAMPS)/background.log >&2; exit 1; }; \
	echo "tests/$(BACKGROUND_SUITE)"; tail -n 1 $(STAMPS)/background.log

# Unit tests of modules that are never compiled, and of documents.
OF_NO_COMPILED_MODULE := $(wildcard $(addprefix tests/unit/test_,anycable_options.py apps.py cli.py \
	client_*.py compiled.py config*.py docs.py floors.py history_config.py layers.py module_state.py settings.py \
	signing_in_one_place.py unused_variables.py webhook_*.py words.py workflows.py))

# Integration tests that measure times, or that need the machine for themselves.
ALONE := $(addprefix tests/integration/test_,descriptors.py greedy_clients.py history_resume.py slow_readers.py \
	turns.py)

COVERAGE := $(CURDIR)/$(STAMPS)/coverage
PYTHONS ?= python3.11 python3.12 python3.13
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

.PHONY: run test coverage test-compiled test-versions bench bench-scale fairness compile soak fuzz mutate autobahn \
	check check-workflows format build clean

## run: start the server (ARGS="--port 9000" passes options on)
run: $(STAMPS)/run
	$(BIN)/heliograph $(ARGS)

## test: everything, against real clients and a real browser (ARGS="-k presence": those tests only)
test: $(STAMPS)/dev $(STAMPS)/node $(STAMPS)/system
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(MAKE) coverage
	@setsid sh -c '$(MAKE) --no-print-directory compile && $(BIN)/python -m pytest -q tests/$(BACKGROUND_SUITE)' \
		>$(STAMPS)/background.log 2>&1 & background=$$!; \
	trap 'kill -- -$$background 2>/dev/null || true' EXIT; \
	for suite in $(OTHER_SUITES); do \
		echo "tests/$$suite"; \
		case $$suite in clients) on="$(FILES_ON_ALL_CORES)";; *) on=;; esac; \
		if [ $$suite = bench ]; then $(WAIT_FOR_BACKGROUND); fi; \
		$(BIN)/python -m pytest -q $$on tests/$$suite || exit 1; \
	done
	$(MAKE) test-compiled ARGS="$(ALL_CORES) $(addprefix --ignore=,$(OF_NO_COMPILED_MODULE)) tests/fuzz tests/unit"
	$(MAKE) test-compiled ARGS="$(SOCKETS)"
endif

## coverage: unit and integration tests, with what they ran of each package, servers included
coverage: export COVERAGE_FILE = $(COVERAGE)/data
coverage: $(STAMPS)/dev $(STAMPS)/system
	@rm -rf $(COVERAGE) && mkdir -p $(COVERAGE)
	$(BIN)/coverage run -m pytest -q --timeout=300 $(ALL_CORES) tests/unit
	$(BIN)/coverage run -m pytest -q --timeout=300 $(FILES_ON_ALL_CORES) \
		$(addprefix --ignore=,$(ALONE)) tests/integration
	$(BIN)/coverage run -m pytest -q --timeout=300 $(ALONE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o $(COVERAGE)/report.json
	$(BIN)/coverage html --quiet -d $(COVERAGE)/html
	$(BIN)/python -m tests.floors $(COVERAGE)/report.json

## test-versions: unit and integration tests on each Python of PYTHONS="python3.12 /opt/python3.13/bin/python"
test-versions:
	@set -e; for python in $(PYTHONS); do \
		version=$$($$python -c 'import platform; print(platform.python_version())'); \
		echo "Python $$version"; \
		$(MAKE) --no-print-directory $(STAMPS)/versions/$$version/installed PYTHON=$$python; \
		$(STAMPS)/versions/$$version/bin/python -m pytest -q $(or $(ARGS),tests/unit tests/integration); \
	done

## test-compiled: the same sources, compiled
test-compiled: $(STAMPS)/compiled
	$(COMPILED)/bin/python -m pytest -m "not interpreted" $(or $(ARGS),tests/fuzz tests/unit tests/integration)

SOCKETS := $(addprefix tests/integration/test_,api.py garbage.py greedy_clients.py history_api.py http.py \
	slow_readers.py streams.py takeovers.py tls.py tls_streams.py turns.py two_servers.py users.py websocket.py)

## compile: what every event goes through, into an environment of its own (takes a C compiler)
compile: $(STAMPS)/compiled

## bench: every workload beside two servers in C, in a quarter of an hour (ARGS="--help" for more);
##        ARGS="--against REV" compares this tree with the build of a commit instead
bench: $(STAMPS)/dev
	@case "$(ARGS)" in *--server*) ;; *) command -v cc >/dev/null && $(MAKE) --no-print-directory compile;; esac || true
	$(BIN)/python -m bench $(ARGS)

## bench-scale: memory and times of thousands of idle clients, in eight minutes (ARGS="--help" for more)
bench-scale: $(STAMPS)/dev
	@command -v cc >/dev/null && $(MAKE) --no-print-directory compile || true
	$(BIN)/python -m bench.scale $(ARGS)

## fairness: how long a client waits beside attackers, in seven minutes (ARGS="--help" for more)
fairness: $(STAMPS)/dev
	@command -v cc >/dev/null && $(MAKE) --no-print-directory compile || true
	$(BIN)/python -m bench.fairness $(ARGS)

## check: lint, format, types, import directions, names, documents
check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q $(addprefix tests/unit/test_,layers.py docs.py words.py compiled.py settings.py \
		signing_in_one_place.py)

## check-workflows: lint .github/workflows with actionlint (takes Go)
check-workflows:
	@command -v go >/dev/null || { echo "Checking the workflows takes Go: install it first." >&2; exit 1; }
	go run $(ACTIONLINT)

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

## autobahn: the WebSocket cases of Autobahn|Testsuite (ARGS="--cases 1.*"); says what to install
autobahn: $(STAMPS)/dev
	$(BIN)/python -m conformance $(ARGS)

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

$(STAMPS)/versions/%/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

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
