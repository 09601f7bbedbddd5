# Afluente: `make` lists what there is. Needs Python 3.11 or newer and nothing else; every target brings what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCAL := $(VENV)/.installed-local
DEV := $(VENV)/.installed-dev
SHIPPED := app agents tables schemas api infra
PIP := $(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps --progress-bar on

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev up down clean demo test test-fault fault-table soak bench bench-bills check sbom lock FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  ./afluente --help   everything else'

setup: $(LOCAL) ## .venv with all that the stack needs, from the lock with hashes

setup-dev: $(DEV) ## the same, and what the tests and checks need

up: setup ## start Kafka, Postgres, ClickHouse, the edge and a worker
	@./afluente up

down: setup ## stop them; the data stays
	@./afluente down

clean: setup ## stop them and remove the data (AFLUENTE_HOME)
	@./afluente clean --yes

demo: setup ## real traffic and a killed worker, then bills by CDC; each must come out right
	@./afluente demo
	@./afluente demo bills

test: setup-dev ## all tests but the fault suite, on real parts
	@$(BIN)/python -m pytest -q --ignore=tests/fault

test-fault: setup-dev ## kill -9 anything, anywhere, and count; FULL=1 for all seeds and the long outages
	@FULL=$(FULL) $(BIN)/python -m pytest -q tests/fault

fault-table: setup-dev ## the results of the last test-fault into docs/reliability.md
	@$(BIN)/python -m tests.fault.results

soak: setup-dev ## random faults of all kinds, then a count: MINUTES=20 SEED=1
	@SOAK_MINUTES=$(or $(MINUTES),20) SOAK_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -q tests/fault/test_soak.py --timeout=0

bench: setup-dev ## the benchmarks of loadtest/, with their conditions
	@$(BIN)/python -m loadtest.bench

bench-bills: setup-dev ## bills from Postgres to ClickHouse at full size: an hour (AFLUENTE_BENCH_SCALE=0.02: minutes)
	@$(BIN)/python -m loadtest.bills_bench

check: setup-dev ## format, lint, security rules, types, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/bandit -q -c pyproject.toml -r $(SHIPPED) 2> $(VENV)/bandit.log || { cat $(VENV)/bandit.log >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports

sbom: setup-dev ## the bill of materials of what runs in production, as CycloneDX: sbom.cdx.json
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --output-reproducible --pyproject pyproject.toml --mc-type application \
	  --sv 1.6 --of JSON -o sbom.cdx.json requirements.txt
	@echo "sbom.cdx.json"

lock: setup-dev ## resolve requirements*.in and jars.toml anew (needs uv)
	@command -v uv > /dev/null || { echo "error: make lock needs uv (pip install uv)" >&2; exit 1; }
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  -o requirements-dev.txt requirements-dev.in
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  -c requirements-dev.txt -o requirements-local.txt requirements-local.in
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  -c requirements-dev.txt -o requirements.txt requirements.in
	$(BIN)/python -m infra.local.jars

# A stamp holds the hash of the lock it was made from, so a changed lock installs and an unchanged one costs nothing,
# whatever the dates of a fresh clone say.
$(LOCAL): FORCE
	@$(call install,requirements-local.txt,$(LOCAL))

$(DEV): FORCE
	@$(call install,requirements-dev.txt,$(DEV))

FORCE:

define install
set -eu; \
if [ ! -x $(BIN)/python ]; then \
  command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) is not here; Afluente needs Python 3.11 or newer (make PYTHON=/path/to/python3 ...)" >&2; exit 1; }; \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "error: $$($(PYTHON) --version) is too old: Afluente needs Python 3.11 or newer (make PYTHON=/path/to/python3.11 ...)" >&2; exit 1; }; \
  echo "creating $(VENV) with $$($(PYTHON) --version)"; \
  $(PYTHON) -m venv $(VENV) || { echo "error: the venv module is missing (on Debian: apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }; \
fi; \
want=$$($(BIN)/python -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' $(1)); \
if [ "$$(cat $(2) 2> /dev/null)" != "$$want" ]; then \
  echo "installing $(1) into $(VENV)"; \
  $(PIP) -r $(1); \
  echo "$$want" > $(2); \
fi
endef
