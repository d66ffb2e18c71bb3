# Python 3.11 or newer, make and gcc are all that must be there before.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-configs fast lint docs clean

demo: $(READY)
	$(PY) -m experiments.demo

test: $(READY) lint
	$(PY) -m pytest -n 2 --dist worksteal

# What takes minutes: a run killed fifty times.
test-slow: $(READY)
	$(PY) -m pytest -m slow

# Two steps of the configs that `test` leaves out.
test-configs: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal -m configs

fast: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal -m fast

lint: $(READY)
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/mypy --strict mecq_reader.py mecq_jax
	$(VENV)/bin/mypy experiments examples

# The site, into docs/_build, with warnings as errors; it runs the notebooks and the code on the pages.
docs: $(READY)
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build
	$(PY) -m sphinx -q -W --keep-going -b doctest docs docs/_build/doctest

# Reinstalled only when what is asked for has changed, so that a second call starts at once.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mecq_jax needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[experiments,onnx,tensorboard,test,docs]'
	touch $@

clean:
	rm -rf $(VENV) docs/_build docs/jupyter_execute
