# Every command sets up what it needs. PYTHON may name another interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where `make dev` keeps what it writes; .data/demo shows what the demo did.
DATA ?= .data/dev

# Nearly 500 MB, so it is installed for the slower suites only; and apart, because mlflow changes where it finds pyspark.
SPARK := tests/spark/requirements

# Over 100 MB that one test needs; what the project's own lock has as well is not in its lock.
DSPY := tests/dspy/requirements

# What makes a site of the documentation has an environment of its own, too, and needs nothing of the project's.
DOCS := docs/requirements
SITE ?= .data/site

.PHONY: demo dev test test-all test-faults check docs screenshots lock setup clean

demo: setup
	$(BIN)/release-pipeline demo

dev: setup
	$(BIN)/release-pipeline dev --data $(DATA)

test: setup
	$(BIN)/pytest -n 2 -m "not slow and not exhaustive"

test-all: setup $(VENV)/spark/.installed $(VENV)/dspy/.installed $(VENV)/docs/.installed
	$(BIN)/pytest -n 4 --dist worksteal -m slow --ignore tests/spark --ignore tests/dspy
	PYTHONPATH=$(CURDIR)/$(VENV)/dspy $(BIN)/pytest -m slow tests/dspy & dspy=$$!; \
	    PYTHONPATH=$(VENV)/spark $(BIN)/pytest -m slow tests/spark; spark=$$?; wait $$dspy && exit $$spark

# Every fault at every call of a release, and what else takes long: about three hours.
test-faults: setup
	$(BIN)/pytest -n 4 -m "slow or exhaustive" tests/faults tests/histories \
	    tests/local_workspace/test_forked_processes.py tests/example tests/package

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vulture

# A link or an anchor that leads nowhere is an error, as every warning is.
docs: $(VENV)/docs/.installed
	$(VENV)/docs/bin/sphinx-build -W --keep-going -q -b html -d $(VENV)/docs/doctrees -c docs . $(SITE)

# The pictures of docs/images, taken anew as an operator goes through a demo, and of the local workspace's pages.
screenshots: setup
	SCREENSHOTS=docs/images $(BIN)/pytest -m slow tests/demo tests/browser -k "operator or every_link"

# Without an index address and for every supported Python, so that any mirror can serve it.
lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra notifications --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --upgrade -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml deploy/requirements.in --extra production --extra notifications --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.lock \
	    -o deploy/requirements.lock
	$(BIN)/uv pip compile $(SPARK).in --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --upgrade -o $(SPARK).lock
	$(BIN)/uv pip compile $(DSPY).in -c requirements.lock --universal --python-version 3.11 --upgrade \
	    --generate-hashes --no-emit-index-url --no-header -o $(DSPY).lock \
	    $$(sed -n 's/^\([a-zA-Z0-9][^= ]*\)==.*/--no-emit-package \1/p' requirements.lock)
	$(BIN)/uv pip compile $(DOCS).in --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --upgrade -o $(DOCS).lock

setup: $(VENV)/.installed

# The lock is complete, so --no-deps keeps pip from resolving again (and from tripping over extras).
$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/spark/.installed: $(SPARK).lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
	    --target $(VENV)/spark -r $(SPARK).lock
	touch $@

$(VENV)/dspy/.installed: $(DSPY).lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
	    --target $(VENV)/dspy -r $(DSPY).lock
	touch $@

$(VENV)/docs/.installed: $(DOCS).lock
	test -x $(VENV)/docs/bin/python || $(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(DOCS).lock
	touch $@

clean:
	rm -rf $(VENV) .data
