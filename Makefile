# Needs python3 (3.11 to 3.14), make and the package index that pip is set up for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEEL_CHECK := build/wheel-check
# Where the unpacked wheel is tried: outside the repository's root, which would shadow it.
TRY_WHEEL := cd $(WHEEL_CHECK) && PYTHONPATH=. bin/loadtune

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint wheel unit clean

help:
	@echo "make demo    probe the demo data on this CPU and on a replayed GPU (under 5 minutes, once installed)"
	@echo "make test    everything that .ci/run checks: lint, types, imports, wheel, tests"
	@echo "make lint    of these: ruff, mypy, import-linter"
	@echo "make wheel   of these: build the wheel and try it"
	@echo "make unit    of these: the unit tests (seconds)"
	@echo "make clean   remove everything made here, $(VENV) included"

demo: $(VENV)/.installed
	$(BIN)/loadtune probe --dataset demo/nuclei --device cpu --budget 120s --fresh --out reports/demo-cpu --force
	$(BIN)/loadtune probe --dataset demo/nuclei --step-time 0.06 --batch-size 16 \
		--baseline num_workers=1,persistent_workers=true --budget 150s --fresh --out reports/demo-replay --force
	@echo
	@echo "Reports to open in a browser:"
	@echo "  reports/demo-cpu/report.html     training on this CPU"
	@echo "  reports/demo-replay/report.html  a GPU with 0.06 s a step, replayed"

# The tests come last: their summaries are what a reader looks for. Unit tests and pages share the cores; what runs real
# loaders and measures has the machine for itself.
test: lint wheel
	$(BIN)/python -m pytest -n 2 --dist loadfile --doctest-modules tests/unit loadtune
	$(BIN)/python -m pytest -n 2 tests/browser
	$(BIN)/python -m pytest tests/integration

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The wheel is unpacked without its dependencies, which $(VENV) has, and found there before the editable installation.
wheel: $(VENV)/.installed-dev
	rm -rf dist $(WHEEL_CHECK)
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pip install --quiet --no-deps --target $(WHEEL_CHECK) dist/*.whl
	$(TRY_WHEEL) --help
	$(TRY_WHEEL) schema > schema.json
	$(TRY_WHEEL) report ../../tests/golden/report-v1.json --html page.html > answer.txt

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit

# The environment is made once; it is installed into again where pyproject.toml has changed.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loadtune needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist reports/demo-cpu reports/demo-replay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find loadtune tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
