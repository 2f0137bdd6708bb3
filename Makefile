# One environment, built once and kept in .venv; every target below brings it up to date first.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PYTEST_ARGS ?=
STRUCTURES ?= 600
# Of the tests of the report; the first that there is.
CHROMIUM ?= chromium chromium-browser google-chrome

# One thread per process: two spinning OpenMP threads on a busy machine are some 50 times slower than one.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE

PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --quiet
PINS := requirements/constraints.txt
CLUSTER := launchers/devcluster/devcluster.sh
DFT_PACKAGES := g++ libxc-dev libopenblas-dev libopenmpi-dev openmpi-bin

.DEFAULT_GOAL := help
.PHONY: help env dft dft-packages run report-demo test browser cluster lint clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

env: $(VENV)/.project  ## build the environment (about three minutes, 3 GB; goes on where it was interrupted)

dft: env  ## install GPAW for labeler=gpaw (Debian packages as root, then two minutes of compiling)
	@$(VENV)/bin/python -c 'import gpaw' 2>/dev/null && echo "GPAW is here already" || { $(MAKE) --no-print-directory dft-packages && CC=g++ $(PIP) -c $(PINS) gpaw; }

dft-packages:
	@command -v apt-get >/dev/null || { echo "GPAW needs a C++ compiler, libxc, BLAS and, to run in parallel, Open MPI: install them, then: CC=g++ $(VENV)/bin/pip install gpaw" >&2; exit 1; }
	@test "$$(id -u)" = 0 || { echo "as root: apt-get install -y --no-install-recommends $(DFT_PACKAGES)" >&2; exit 1; }
	@apt-get update -qq && apt-get install -y -qq --no-install-recommends $(DFT_PACKAGES)

run: env  ## explore Li-P-S, or anything else: make run ARGS="system=li-p-s model=sevennet"
	@$(VENV)/bin/python -m chemloop $(ARGS)

report-demo: env  ## write a report to look at, without a campaign, and print its path: make report-demo STRUCTURES=10000
	@$(VENV)/bin/python -m chemloop.report.demonstration outputs/report-demo.html --structures $(STRUCTURES)

test: env browser  ## run the tests: make test PYTEST_ARGS="tests/unit -k hull"
	@CHROMIUM="$(CHROMIUM)" $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 -rf $(PYTEST_ARGS)

browser:
	@for name in $(CHROMIUM); do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Debian's chromium for the tests of the report"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
	    echo "tests/browser needs Chromium: sudo apt-get install chromium, or name the one you have: make test CHROMIUM=/path/to/it" >&2; \
	    exit 1; \
	fi

lint: env  ## check style and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

cluster:  ## start a real SLURM on this Debian machine, for tests/cluster; stop it: launchers/devcluster/devcluster.sh down
	@$(CLUSTER) up

clean:  ## remove the environment and all caches; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find chemloop tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "ChemLoop needs Python 3.11 or newer, and there is no $(PYTHON): install one, or name it: make env PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ChemLoop needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1): name another one: make env PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Building $(VENV) with $$($(PYTHON) -V), about three minutes, 3 GB"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.resolved: requirements/base.txt requirements/dev.txt $(PINS) | $(VENV)/.created
	@echo "1/3 everything that pip can resolve by itself"
	@$(PIP) -r requirements/base.txt -r requirements/dev.txt
	@touch $@

$(VENV)/.overruled: requirements/no-deps.txt $(PINS) $(VENV)/.resolved
	@echo "2/3 mace-torch, mattersim, mattergen, whose pins are overruled"
	@$(PIP) --no-deps -r requirements/no-deps.txt
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.overruled
	@echo "3/3 chemloop itself, editable"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
