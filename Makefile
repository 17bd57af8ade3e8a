# `make` lists the targets. Every one of them sets up first, so on a clean clone nothing else has to be typed.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
IN_VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup quickstart check test bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 18

setup: ## make ./.venv with everything at the pinned versions; quick when nothing changed
	@bash .ci/setup

quickstart: setup ## push real data, read it, swap, roll back, query, stream updates: a minute or two; KAFKA=1: on Apache Kafka
	@$(IN_VENV) -m venice.quickstart $(if $(KAFKA),--kafka)

check: setup ## ruff, its format, mypy --strict, the import contract
	@ruff check .
	@ruff format --check --quiet .
	@mypy
	@lint-imports --no-cache

# A file of tests goes to the next free process as a whole. Half of the time a test waits, so there is one process more than two cores.
test: setup ## all tests; no network needed
	@$(IN_VENV) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

bench: setup ## benchmarks of docs/performance.md, as ratios within one run; needs redis-server and wrk for the comparisons
	@set -e; for bench in tests/bench/bench_*.py; do $(IN_VENV) $$bench; done

clean: ## remove .venv and what the tools left
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
