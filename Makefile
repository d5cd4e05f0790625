# Everything runs in .venv, which is set up on first use and again when pyproject.toml changes.

PYTHON ?= python3
BIN := .venv/bin
BASE := .venv/base
LIGHT := .venv/light
READY := .venv/ready

.DEFAULT_GOAL := help

help:  ## what a contributor can do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

$(BASE): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $(BASE)

$(LIGHT): $(BASE)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(LIGHT)

# the CUDA toolchain runs without a GPU: tests assemble every kernel
$(READY): $(BASE)
	$(BIN)/python -m pip install --quiet --editable '.[cuda,dev,pictures]'
	@touch $(LIGHT) $(READY)

setup: $(READY)  ## create .venv and install fusec with what its tests need

demo: $(BASE)  ## compile the demo model, show what was fused and the plan, write a story on the CPU
	@mkdir -p out
	$(BIN)/fusec compile demo -o out/demo --dot out/demo.dot
	$(BIN)/fusec run out/demo -p "Once upon a time" -n 400 --temp 0

test: $(READY)  ## run all tests
	$(BIN)/python -m pytest -n auto --dist loadgroup

test-fast: $(LIGHT)  ## run the quicker tests, which need no CUDA toolchain
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow and not cuda"

test-pythons: $(LIGHT)  ## run the fast tests of the wheel on every supported Python found
	.ci/pythons

lint: $(READY)  ## format check, linter, type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## rewrite files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove everything that can be made again
	rm -rf .venv out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo test test-fast test-pythons lint format clean
