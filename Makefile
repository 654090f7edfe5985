# Every target does its own set-up: a virtual environment in .venv, filled from the locked requirements, made once.
# The machine needs Python 3.11 or newer (with pip and venv) and make. PYTHON=/path/to/python chooses another one.

PYTHON ?= python3
ARGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
LOCK := uv pip compile --quiet pyproject.toml --all-extras --group build --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-package pip
# The tools that look for what is known against the others stand apart: none of theirs is what a test runs with.
AUDIT_LOCK := uv pip compile --quiet --group audit --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

# A stamp says which part of the set-up is done; one that is older than its lock is done again.
PYTHON_READY := $(VENV)/.ready-python
RUNTIME_READY := $(VENV)/.ready-runtime
PROJECT_READY := $(VENV)/.ready-project
TESTS_READY := $(VENV)/.ready-tests
AUDIT_READY := $(VENV)/.ready-audit

# $(call step,name,command): says what runs, and which step it was when it fails.
step = @printf '== %s\n' '$(1)'; $(2) || { status=$$?; printf '\nmake $@: failed at %s\n' '$(1)' >&2; exit $$status; }

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test check lint locks audit bench engines lock clean

help: ## this list
	@printf 'Lengthwise. Needs Python 3.11+ and make; every target sets itself up in $(VENV).\n\n'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nARGS="..." is handed to the command: make serve ARGS="--upstream URL", make test ARGS="-k sse".\n'

demo: $(PROJECT_READY) ## simulated provider + proxy + traffic + probe, and the answer; offline, half a minute
	@exec $(BIN)/lengthwise demo $(ARGS)

serve: $(PROJECT_READY) ## the proxy: make serve ARGS="--upstream URL"
	@exec $(BIN)/lengthwise serve $(ARGS)

test: lint ## format, lint, types, import contracts, then every test
	$(call step,tests,$(BIN)/python -m pytest -n $(JOBS) $(ARGS))

check: lint ## the static half of test, the example configuration, the locks, and what is known against what is locked
	$(call step,lengthwise check,$(BIN)/lengthwise check --config config/lengthwise.yaml)
	@$(MAKE) --no-print-directory locks audit

lint: $(TESTS_READY)
	$(call step,ruff format,$(BIN)/python -m ruff format --check .)
	$(call step,ruff check,$(BIN)/python -m ruff check .)
	$(call step,mypy --strict,$(BIN)/python -m mypy)
	$(call step,import contracts,$(BIN)/lint-imports --no-logo)

locks:
	@if ! command -v uv >/dev/null; then echo '== locks: skipped, uv is not installed'; exit 0; fi; \
	echo '== locks'; \
	rm -rf $(VENV)/locks && mkdir -p $(VENV)/locks/tests && \
	cp requirements.lock $(VENV)/locks/ && cp tests/requirements.lock tests/audit.lock $(VENV)/locks/tests/ && \
	$(LOCK) -o $(VENV)/locks/requirements.lock && \
	$(LOCK) --group test -c requirements.lock -o $(VENV)/locks/tests/requirements.lock && \
	$(AUDIT_LOCK) -o $(VENV)/locks/tests/audit.lock || \
	{ echo 'make locks: uv could not resolve pyproject.toml' >&2; exit 1; }; \
	diff -u requirements.lock $(VENV)/locks/requirements.lock && \
	diff -u tests/requirements.lock $(VENV)/locks/tests/requirements.lock && \
	diff -u tests/audit.lock $(VENV)/locks/tests/audit.lock || \
	{ echo 'make locks: pyproject.toml asks for something else than is locked; run make lock' >&2; exit 1; }

audit: $(PROJECT_READY) ## a bill of materials of what is locked, and its known vulnerabilities (needs a network)
	@if ! $(MAKE) --no-print-directory --silent $(AUDIT_READY); then \
	echo '== audit: skipped, its tools could not be installed'; exit 0; fi; \
	echo '== audit'; $(BIN)/python tests/supply_chain.py $(VENV)/audit/bin

bench: $(TESTS_READY) ## what the relay costs beside nginx and others in the same run, and whether targets are met; 15 minutes
	@exec $(BIN)/python -m tests.bench $(ARGS)

engines: $(TESTS_READY) ## against real engines and trace backends; installs them into .engines first (some GB)
	@$(BIN)/python tests/engines/install.py $(PARTS) || \
	echo 'make engines: not every part could be installed (see above); the tests of the others run, the rest is skipped' >&2
	@exec $(BIN)/python -m pytest tests/engines -n 0 -rs $(ARGS)

lock: ## make the lock files again (needs uv)
	@command -v uv >/dev/null || { echo 'make lock: needs uv' >&2; exit 1; }
	$(LOCK) -o requirements.lock
	$(LOCK) --group test -c requirements.lock -o tests/requirements.lock
	$(AUDIT_LOCK) -o tests/audit.lock

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(PYTHON_READY):
	@command -v $(PYTHON) >/dev/null || \
	{ echo 'make: $(PYTHON) is not installed; Lengthwise needs Python 3.11 or newer (PYTHON=/path/to/python chooses one)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1); Lengthwise needs Python 3.11 or newer (PYTHON=/path/to/python chooses one)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	{ echo 'make: could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@touch $@

$(RUNTIME_READY): requirements.lock $(PYTHON_READY)
	@echo 'Installing the locked requirements into $(VENV) (once)'
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(PROJECT_READY): pyproject.toml $(RUNTIME_READY)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(TESTS_READY): tests/requirements.lock $(PROJECT_READY)
	@echo 'Installing what the tests need into $(VENV) (once)'
	@$(PIP) install --require-hashes -r tests/requirements.lock
	@touch $@

$(AUDIT_READY): tests/audit.lock $(PYTHON_READY)
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip -qq --disable-pip-version-check --no-input install --require-hashes -r tests/audit.lock
	@touch $@
