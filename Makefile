# Targets for users and contributors; `make` alone lists them. Each makes .venv first where it is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lab soak bench readme export clean

bin := .venv/bin

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: .venv/.installed ## run real experiments in demo/ and show what was recorded
	@$(bin)/python tools/demo.py

test: .venv/.installed ## run every check and test
	@$(bin)/python tools/run_tests.py

lab: .venv/.installed ## open JupyterLab on the workspace
	@$(bin)/mlops-nb lab

soak: .venv/.installed ## run the long tests that `make test` leaves out
	@$(bin)/pytest -m soak --timeout 0

bench: .venv-bench/.installed ## measure against targets and rivals, in an environment of their own
	@.venv-bench/bin/python benchmarks/run_all.py

readme: .venv/.installed ## make README.md from nbs/index.ipynb
	@$(bin)/python tools/readme.py

export: .venv/.installed ## make the package from the notebooks
	@$(bin)/python tools/export.py

clean: ## remove builds and caches; environments, .mlops and demo stay
	@rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find mlops_nb tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	@bash tools/setup.sh .venv -e '.[dev]'

.venv-bench/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	@bash tools/setup.sh .venv-bench -e . -r benchmarks/requirements.txt
