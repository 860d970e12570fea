# Everything starts from a clean machine with Python >= 3.11 and its venv module. `make` alone says what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
PARALLEL := -n auto --maxprocesses=8 --dist worksteal
# The default Linux wheel of torch is the CUDA build, some gigabytes. For the CPU build:
#   make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP_INSTALL := $(BIN)/python -m pip install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-kill test-avx2 test-bits lint format docs clean

help: ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

quickstart: $(VENV)/.package ## train a small model on bundled text, on the CPU
	$(BIN)/thetahat train

test: lint ## what continuous integration runs
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(VENV)/.tests ## the long tests: every kill point, whole trainings
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

test-kill: $(VENV)/.tests ## kill a run at every operation and at random, damage it, fill its disk; the same bits each time
	$(BIN)/python -m pytest tests/faults -s $(PYTEST_ARGS)

test-avx2: $(VENV)/.tests ## the same as on an older CPU, whose kernels add in another order
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
		$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu" $(PYTEST_ARGS)

BASE ?= HEAD
test-bits: $(VENV)/.tests ## losses, norms and scores against another revision, bit for bit: make test-bits BASE=REV
	$(BIN)/python tests/golden/record.py --against $(BASE)

lint: $(VENV)/.tests ## format, lint, types and layers, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.tests ## rewrite the files as the formatter wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.tests ## the documentation as a site, in site/; a broken link fails; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## forget the environment and every cache; runs/ stays
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there. Install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old, 3.11 or later is needed. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.package
	$(PIP_INSTALL) -e ".[test]"
	@touch $@
