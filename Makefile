# One word per action, the same here and in CI. Needs only Python 3.11, git and pip on the machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Each has a cluster of its own, whose start Ray gives 30 seconds, however busy the machine is.
ALONE := tests/e2e/test_submit.py tests/e2e/test_notebooks.py
BENCHMARKS := $(filter-out __init__ common contenders http_load,$(basename $(notdir $(wildcard benchmarks/*.py))))

.PHONY: install demo test test-gpu bench lint pages format clean

install: $(INSTALLED)  ## create .venv and install the pinned dependencies and this package

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## classify the handwritten digits of scikit-learn, from Parquet to Parquet
	$(BIN)/python -m jobs.demo

test: $(INSTALLED)  ## run the whole suite on two processes, each with its Ray cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/unit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=60 --ignore tests/unit $(addprefix --ignore=,$(ALONE))
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=6 $(ALONE)

test-gpu: $(INSTALLED)  ## run the tests that need CUDA
	$(BIN)/python -m pytest tests/gpu

bench: $(INSTALLED)  ## run the quick form of every benchmark, one after the other
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -W ignore -m benchmarks.$$name --quick || exit 1; done

lint: $(INSTALLED)  ## ruff, format check, mypy, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pages: $(INSTALLED)  ## write what is generated in README.md and jobs/README.md
	$(BIN)/python -m ray_pipelines.reference

format: $(INSTALLED)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) .demo
