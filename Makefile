# Every command sets up what it needs. PYTHON may name another interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Nearly 500 MB, so it is installed for the slower suites only; and apart, because mlflow changes where it finds pyspark.
SPARK := tests/spark/requirements

.PHONY: demo dev test test-all test-faults check lock setup clean

demo: setup
	$(BIN)/release-pipeline demo

dev: setup
	$(BIN)/release-pipeline dev

test: setup
	$(BIN)/pytest -n 2 -m "not slow and not exhaustive"

test-all: setup $(VENV)/spark/.installed
	$(BIN)/pytest -n 2 -m slow --ignore tests/spark
	PYTHONPATH=$(VENV)/spark $(BIN)/pytest -m slow tests/spark

# Every fault at every call of a release, and random histories: longer than an hour.
test-faults: setup
	$(BIN)/pytest -n 2 -m "slow or exhaustive" tests/faults tests/histories

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Without an index address and for every supported Python, so that any mirror can serve it.
lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra notifications --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --upgrade -o requirements.lock
	$(BIN)/uv pip compile $(SPARK).in --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --upgrade -o $(SPARK).lock

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

clean:
	rm -rf $(VENV) .data
