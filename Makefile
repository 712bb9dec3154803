# Everything a fresh machine needs: python3 (3.11 or later, with venv), git and make.
#
#   make demo    the main job, on real photographs
#   make test    the tests
#
# PYTHON chooses the interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help demo test slow lint types bench results clean

help:
	@sed -n '3,6s/^# *//p' Makefile
	@echo 'make slow lint types bench results clean'

# pip is asked again only when what it would install has changed.
$(VENV)/.installed: pyproject.toml relocate-modules.pth
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "relocate needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "This python3 lacks venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test,dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTESTFLAGS) -n 2 -m 'not slow'

slow: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTESTFLAGS) -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/run.py

results: $(VENV)/.installed
	$(BIN)/python benchmarks/resilience.py

clean:
	rm -rf $(VENV) .tox build dist results .mypy_cache .ruff_cache .pytest_cache
