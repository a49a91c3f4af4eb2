# Everything runs in .venv, made from pyproject.toml and constraints.txt. Only Python >= 3.11 is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := runs/demo

.PHONY: demo test test-slow lint format types docs tables bench clean environment

demo: $(VENV)/.demo ## measure three methods on a real model on this machine, and open the report
	@$(BIN)/ponder models pull smollm2-135m
	@$(BIN)/ponder bench --study examples/studies/demo.toml --out $(DEMO)
	@$(BIN)/ponder recommend $(DEMO)
	@$(BIN)/ponder report $(DEMO) --png
	@echo
	@echo "Report: $(CURDIR)/$(DEMO)/report.html"

test: $(VENV)/.dev ## the whole default suite, on the embedded model too
	@$(BIN)/ponder models pull smollm2-135m
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/.dev ## what takes minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

tables: $(VENV)/.dev ## the technique tables in README.md and docs/techniques.md, from the registry
	$(BIN)/python -m ponder.reports.technique_tables

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/selection.py

clean:
	rm -rf $(VENV) runs site

environment: $(VENV)/.dev

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(VENV)/.demo: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[demo]'
	@touch $@

# torch first and by pip: the pinned CPU build, where pip finds one; an open range would fetch gigabytes of CUDA
$(VENV)/.dev: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.demo
