# make run      build the environment once, run the pipeline, print the scores
# make test     style, types and all tests
# make quick    style, types and the fast tests
# make mlflow   compare runs in a browser
PYTHON ?= python3.11
VENV ?= .venv
PORT ?= 5000
FREE_GB ?= 9
# paths relative to this folder: make splits a path with a space
PY := $(VENV)/bin/python
# a user id without a name, as in containers: DVC asks for a name and a home
export LOGNAME := $(or $(LOGNAME),$(shell id -un >/dev/null 2>&1 && id -un || echo uid$$(id -u)))
export HOME := $(or $(HOME),$(shell home=$$(cd ~ 2>/dev/null && pwd) && echo "$$home" || echo "$${TMPDIR:-/tmp}"))

.PHONY: help run test quick mlflow repository

help:
	@sed -n 's/^# make/make/p' Makefile

run: repository $(VENV)/run.stamp
	@$(PY) -m vdp check --no-cost >/dev/null
	@PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" $(PY) -m dvc repro
	@$(PY) -m vdp summary

quick: SELECT := -m "not slow and not end_to_end"
test quick: $(VENV)/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile $(SELECT)

mlflow: $(VENV)/run.stamp
	@echo "http://127.0.0.1:$(PORT)/#/experiments/1   (stop with Ctrl-C)"
	@MLFLOW_DISABLE_TELEMETRY=true $(PY) -m mlflow ui --host 127.0.0.1 --port $(PORT) \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

# before anything is installed
repository:
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "this folder is not a git repository, which DVC needs: install git, then run: git init && git add --all && git commit --message start" >&2; exit 1; }

$(VENV)/run.stamp: requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/test.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Installing takes 8 GB where the environment and pip's temporary files share a disk, and leaves 7.
$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or make PYTHON=..." >&2; exit 1; }
	@disk="$(VENV)"; while [ ! -d "$$disk" ]; do disk=$$(dirname "$$disk"); done; \
	df -Pk "$$disk" | awk 'NR == 2 { free = $$4 / 1048576; if (free < $(FREE_GB)) { printf "$(VENV): the environment needs $(FREE_GB) GB of disk, %.1f are free: free some, make VENV=/elsewhere/venv, or make FREE_GB=0 to try\n", free; exit 1 } }' >&2
	$(PYTHON) -m venv $(VENV)
