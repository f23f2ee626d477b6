# make demo | test | soak | lint | bench: each makes .venv when it is missing.
.DEFAULT_GOAL := test
.PHONY: demo test soak lint bench system clean

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(STAMP)

system:
	./bench/install-system-packages postgresql nginx strace

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: $(STAMP) system
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

soak: $(STAMP) system
	$(BIN)/python -m pytest --soak --soak-report=bench/soak.json --numprocesses 2 --dist loadgroup --timeout 1800

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	./bench/install-system-packages postgresql nginx wrk
	$(BIN)/python -m bench.run

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
