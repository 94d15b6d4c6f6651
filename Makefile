# Every command that a newcomer needs. `make demo` and `make test` set up what they need; running them
# again installs nothing unless pyproject.toml, constraints.txt or (for the demo) a source file changed.

# The first Python that is new enough.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
DEMO_ENV ?= tiered-20way
DEMO_OUT ?= runs/demo
DEMO_AGENTS ?= chance nearest_pixel finetune lazy_reptile
DEMO_FLAGS ?=
# Two processes: tests pin torch to one thread each.
PYTEST_FLAGS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find envs agents lazybench -type f -not -name '*.pyc')

.PHONY: help demo install develop test test-faults lint types docs snippets mutants bench peers cost clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "lazybench needs Python 3.11.4 or later; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp each for the two ways of installing; one takes the other's place. A leftover build folder
# would bring deleted modules back into the wheel.
$(VENV)/.installed: pyproject.toml constraints.txt $(SOURCES) | $(BIN)/python
	rm -rf build
	$(PIP) install -c constraints.txt .
	rm -rf build
	rm -f $(VENV)/.developed
	touch $@

$(VENV)/.developed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[test]'
	rm -f $(VENV)/.installed
	touch $@

# The development install and Sphinx.
$(VENV)/.documented: $(VENV)/.developed
	$(PIP) install -c constraints.txt -e '.[test,docs]'
	touch $@

install: $(VENV)/.installed

develop: $(VENV)/.developed

demo: $(VENV)/.installed  ## train and compare four agents on 20-way tasks, then print the board
	set -e; for agent in $(DEMO_AGENTS); do \
		$(BIN)/lazybench run --agent $$agent --env $(DEMO_ENV) --out $(DEMO_OUT) $(DEMO_FLAGS); \
	done
	$(BIN)/lazybench leaderboard --out $(DEMO_OUT) --env $(DEMO_ENV)

test: $(VENV)/.developed  ## run the tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-faults: $(VENV)/.developed  ## every fault of docs/reliability.md, the slow ones included (under 10 minutes)
	$(BIN)/python -m pytest tests/faults -m "not gpu" $(PYTEST_FLAGS)

lint: $(VENV)/.developed  ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.developed  ## mypy --strict over the package
	$(BIN)/mypy --strict -p lazybench

docs: $(VENV)/.documented  ## build the documentation into docs/_build; a warning is an error
	rm -rf docs/api docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "open docs/_build/index.html"

snippets: $(VENV)/.developed  ## run the commands and code of README, docs and CONTRIBUTING, and list them
	$(BIN)/python tools/snippets.py

mutants: $(VENV)/.developed  ## whether tests catch faults: change the code in a copy, place by place (ten minutes)
	$(BIN)/python tools/mutants.py --jobs 2 $(MUTANTS)

bench: $(VENV)/.developed  ## measure what the docs quote
	set -e; for script in $(filter-out benchmarks/cost% benchmarks/peer%,$(wildcard benchmarks/*.py)); do \
		$(BIN)/python $$script; \
	done

peers: $(VENV)/.developed  ## meta-iterations beside higher and TorchOpt (half an hour)
	$(BIN)/python benchmarks/peers.py

cost: $(VENV)/.developed  ## memory, time and meta-gradient against inner steps (an hour)
	$(BIN)/python benchmarks/cost.py

clean:  ## remove the environment, builds and caches (runs/ stays)
	rm -rf $(VENV) build dist docs/_build docs/api lazybench.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
