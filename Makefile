# SPDX-License-Identifier: Apache-2.0
# make setup     set up .venv and what the system lacks (quick the second time)
# make demo      the main job, from a made scan to a DICOM series that is found and fetched
# make test      lint, types, layers, manual and all tests but the campaigns
# make check     the same without Java, peers and real data: for the time between two edits
# make campaign  what takes long: the slow tests and all comparisons in benchmarks/
# make docs      the manual, into site/
# make clean     remove what was built; .venv stays

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
UNIT := not slow and not hdfs and not spark and not dcmtk and not chromium and not real_data and not postgresql and not netns

.DEFAULT_GOAL := help
.PHONY: help setup demo lint test check campaign docs clean

help:
	@sed -n 's/^# make /make /p' Makefile

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	@$(BIN)/conepacs demo $(DEMO_ARGS)

lint: setup
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy --no-error-summary
	@# Its report is long and matters only when a contract is broken.
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; exit 1; }
	$(BIN)/codespell

test: lint
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

check: lint
	@$(PYTEST) -m "$(UNIT)" $(PYTEST_ARGS)

campaign: setup
	@$(PYTEST) -m slow $(PYTEST_ARGS)
	@set -e; for program in $$(grep -l '^def main' benchmarks/*.py); do echo "== $$program"; $(BIN)/python $$program; done

docs: setup
	$(BIN)/mkdocs build -q --strict
	@echo "open site/index.html"

clean:
	rm -rf build dist site demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
