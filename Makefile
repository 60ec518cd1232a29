# Everything a newcomer types. Each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run test compiled lint format bench clean lock
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Notifier needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP) ## start a development server; what it prints can be pasted
	$(BIN)/notifier dev

# The package as the container image has it: what a notification passes, compiled. Made of a copy, so that no compiled file
# ever shadows a source file that is being edited.
COMPILED := build/compiled
$(COMPILED)/.stamp: $(STAMP) $(shell find notifier -name '*.py' -o -name '*.sql')
	@rm -rf build/src build/wheel $(COMPILED)
	@mkdir -p build/src
	@cp -R notifier pyproject.toml README.md LICENSE build/src/
	cd build/src && HATCH_BUILD_HOOKS_ENABLE=1 CFLAGS="$(CFLAGS) -fvisibility=hidden" $(CURDIR)/$(BIN)/python -m hatchling build -t wheel -d ../wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --target $(COMPILED) build/wheel/*.whl
	@touch $@

compiled: $(COMPILED)/.stamp ## compile the package (needs a C compiler); what `make bench` measures

# Most tests wait for servers, not for the processor: four files at a time. Some need the machine to keep up with real
# time, so what failed among the others is tried once more, alone, for all to see; a defect fails there too.
# The servers under test run the package as it is shipped, compiled; where that cannot be made, its source.
test: $(STAMP) ## run all tests
	@$(MAKE) --no-print-directory compiled || echo "not compiled: the servers under test run the source"
	if [ -e $(COMPILED)/.stamp ]; then export TEST_COMPILED=1; fi; \
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder || \
	{ echo "once more, alone:"; $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

lint: $(STAMP) ## ruff (lint, format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: compiled ## measure, compare with bench/baseline.json, write the README's table
	$(BIN)/python -m bench

lock: ## resolve the lock files anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	cd bench && uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q requirements.in -c ../requirements.lock -o requirements.lock

clean: ## remove the environment and caches
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
