# make demo   chat in the browser, everything embedded      make test   all tests
# make up     every process, on RabbitMQ and Redis          make check  lint, types, import contracts
.DEFAULT_GOAL := help
.PHONY: help setup demo up shell doctor test unit test-rabbitmq4 chaos bench pace fuzz check docs format lock clean

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DOCS   := $(VENV)/docs
UV     := 0.13.9

help:  ## what there is to make
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.runtime  ## chat in the browser: http://127.0.0.1:8000/simulator
	@$(BIN)/chatbot demo

up: $(VENV)/.runtime  ## web, worker, sender, beat and flower, on RabbitMQ and Redis
	@PORT="$${PORT:-8000}" PATH="$(abspath $(BIN)):$$PATH" $(BIN)/honcho start

shell: $(VENV)/.runtime  ## a Python shell on the running system
	@$(BIN)/chatbot shell

doctor: $(VENV)/.runtime  ## check broker, Redis, model, channel, clock
	@$(BIN)/chatbot doctor

# One process for each processor: most tests wait for others.
PYTEST := $(BIN)/pytest -n auto --dist worksteal

test: setup  ## all tests, on private RabbitMQ and Redis
	$(PYTEST) $(ARGS)

unit: $(VENV)/.dev  ## what needs no server and no browser, within a minute
	$(PYTEST) -m "not server and not browser and not slow" tests/unit $(ARGS)

test-rabbitmq4: setup  ## the tests that need a broker, on RabbitMQ 4 (as root)
	@PYTEST=$(BIN)/pytest sh tests/rabbitmq4.sh

MESSAGES ?= 2000
FAULTS   ?= 20
SEED     ?= 1
chaos: setup  ## break everything while people write: MESSAGES=20000 FAULTS=100 SEED=7
	@$(BIN)/python -m tests.faults.chaos --messages $(MESSAGES) --faults $(FAULTS) --seed $(SEED)

bench: setup  ## compare and print ratios: ONLY=router,open QUICK=1
	@$(BIN)/python -m tests.benchmarks --only "$(ONLY)" $(if $(QUICK),--quick)

pace: setup  ## replies at the rates Meta takes, against the best possible schedule
	@$(BIN)/python -m tests.integration.test_pace

BODIES  ?= 1000000
REPLIES ?= 1000000
fuzz: setup  ## broken webhook bodies, odd replies: BODIES=1000000 REPLIES=1000000 SEED=7
	@$(BIN)/python -m tests.fuzz.fuzz --bodies $(BODIES) --replies $(REPLIES) --seed $(SEED)

check: $(VENV)/.dev docs  ## lint, types, import contracts, the manual
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(DOCS)/.installed  ## build the manual, strictly: site/index.html
	$(DOCS)/bin/zensical build --strict --clean

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.dev $(DOCS)/.installed  ## what the tests need: packages, RabbitMQ, Redis, Chromium
	@$(BIN)/python -m compileall -qq chatbot tests
	@PATH="$$PATH:/usr/sbin:/sbin" sh tests/install.sh rabbitmq-server redis-server chromium

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	@echo "  creating $(VENV) …"
	@$(PYTHON) -m venv $(VENV) || (sh tests/install.sh python3-venv && $(PYTHON) -m venv --clear $(VENV))
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)

# Without dependencies: the locks name them all, but for those that excluded.txt leaves out. Compiled once,
# also where Python is told to write no bytecode: CrewAI alone would take each process some seconds.
INSTALL := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --compile-bytecode

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/uv
	@echo "  installing what requirements.lock pins (a minute or so) …"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: tests/requirements.lock $(VENV)/.runtime
	@echo "  installing the test tools …"
	@$(INSTALL) --require-hashes -r tests/requirements.lock
	@touch $@

$(DOCS)/.installed: tests/docs.lock | $(BIN)/uv
	@echo "  installing what builds the manual …"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(DOCS)
	@VIRTUAL_ENV=$(DOCS) $(BIN)/uv pip install --quiet --require-hashes -r tests/docs.lock
	@touch $@

PINS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --quiet \
        --custom-compile-command "make lock"
COMPILE := $(BIN)/uv pip compile $(PINS) --excludes docker/excluded.txt pyproject.toml
# requirements.lock has everything that runs; the others take its versions.
SAME := -c requirements.lock
lock: | $(BIN)/uv  ## pin anew what pyproject.toml asks for
	$(COMPILE) --extra agent --extra demo --extra flower -o requirements.lock
	$(COMPILE) $(SAME) -o docker/front.lock
	$(COMPILE) $(SAME) --extra flower -o docker/flower.lock
	$(COMPILE) $(SAME) --extra agent -o docker/worker.lock
	$(COMPILE) $(SAME) --all-extras -o tests/requirements.lock
	$(BIN)/uv pip compile $(PINS) --group docs -o tests/docs.lock

clean:
	rm -rf $(VENV) site .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
