# make demo: set up, train a small robust model on real digits and judge it. make test: set up, then every check.
# make test-slow, make test-long: the tests that take minutes, and those that take longer than .ci/run may.
# make check: the quick part of them, before a first change. make docs: the documentation site, in site/.
# make notebooks: run the notebooks, and keep what they show.
# make wheels: the core and every plugin as wheels, in dist/.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.docs
BUILDER := .venv-wheels/bin/python
DIST := dist
QUICK := tests/test_architecture.py tests/api tests/config tests/docs/test_docs.py tests/commands/test_registry.py \
	tests/train/test_checkpoint.py tests/train/test_plan.py tests/train/test_step.py

.PHONY: demo check test test-slow test-long docs notebooks wheels lint clean

demo: $(STAMP)
	@# one thread: on images this small, threads that wait for each other cost more than they give
	OMP_NUM_THREADS=1 $(BIN)/defense-run --config demo.toml

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q $(QUICK) plugins/emr plugins/mart

test: $(STAMP) lint
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: docs
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -r requirements-slow.txt
	$(BIN)/python -m pytest -q -m "slow and not long" -n auto --dist loadfile

# what takes longer than .ci/run may; benchmarks/results/test-long.txt is the last result
test-long: $(STAMP)
	bash -o pipefail -c '{ date -u +%F; git rev-parse --short HEAD; $(BIN)/python -m pytest -q -m long; } \
		| tee benchmarks/results/test-long.txt'

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -r requirements-slow.txt
	folder=$$(mktemp -d) && cp examples/notebooks/*.ipynb $$folder && PYTHONWARNINGS=ignore $(BIN)/jupyter execute --inplace $$folder/*.ipynb \
		&& cp $$folder/*.ipynb examples/notebooks/

# in an environment of their own, which needs no torch
wheels:
	test -x $(BUILDER) || $(PYTHON) -m venv .venv-wheels
	$(BUILDER) -m pip install --disable-pip-version-check --quiet -c constraints.txt hatchling
	rm -rf $(DIST)
	$(BUILDER) -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation -w $(DIST) . $(wildcard plugins/*/)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core/abatis
	for plugin in plugins/*/src core/abatis/commands/new/templates/*/src examples/third-party/*/src; do MYPYPATH=core:$$plugin $(BIN)/mypy $$plugin || exit 1; done

$(STAMP): constraints.txt requirements-dev.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -r requirements-dev.txt
	touch $(STAMP)

$(DOCS): $(STAMP) requirements-docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -r requirements-docs.txt
	touch $(DOCS)

clean:
	rm -rf .venv .venv-wheels dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
