# Each target sets up what it needs by itself; a second time that takes no time.
PYTHON := .venv/bin/python
SAMPLE := i was charged twice for the same kettle, please send one of the payments back

.PHONY: help demo test check bench docs format clean
.NOTPARALLEL:

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

demo: ## the main job: tune, judge, report and save a ticket classifier, then ask it
	@./tunesmith run recipes/support-desk-intent.yaml
	@./tunesmith ask runs/support-desk-intent "$(SAMPLE)"

test: dev ## all tests that take less than a minute each
	@$(PYTHON) -P -m pytest -m "not slow" -n 2

check: dev ## style, formatting and types
	@$(PYTHON) -P -m ruff check
	@$(PYTHON) -P -m ruff format --check
	@$(PYTHON) -P -m mypy

bench: dev ## the measurements in benchmarks/, one after the other
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PYTHON) "$$script"; done

docs: dev ## the generated parts of docs/ and the schema, made anew
	@.venv/bin/tunesmith schema --out src/tunesmith/recipe.schema.json
	@$(PYTHON) -P docs/generate.py

format: dev ## the code in the house's format
	@$(PYTHON) -P -m ruff check --fix --exit-zero
	@$(PYTHON) -P -m ruff format

clean: ## everything away that was made here, runs excepted
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

.PHONY: dev
dev:
	@./tunesmith --setup dev
