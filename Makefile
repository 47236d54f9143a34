# Everything a newcomer, a founder or a machine runs. `make demo` and `make test` do all set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo test test-deep check bench bench-peers serve clean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements-dev.txt tools/system_packages.sh
	sh tools/system_packages.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

demo: setup
	$(BIN)/python -m tools.demo

# Two processes; a file's tests stay in one, as they share a server or look back at the tests before them.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-deep: setup
	PERDURE_PROFILE=deep $(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/python -m tools.check

bench: setup
	$(BIN)/python -m tools.bench --save .bench
	$(BIN)/python -m tools.bench.report .bench

# Installs DBOS, Absurd and Restate in the user's cache folder, and matplotlib here; draws into docs/plots.
bench-peers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	$(BIN)/python -m tools.bench --save .bench --only peers
	$(BIN)/python -m tools.bench.report .bench
	$(BIN)/python -m tools.bench.plots .bench/*.json

serve: setup
	$(BIN)/perdure serve --data data

clean:
	rm -rf $(VENV) data .bench
