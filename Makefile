# make curriculum   raw text -> tables -> shards -> a trained model -> a report; RECIPE=my.yaml runs another recipe
# make setup        only the virtual environment, Delta's JARs and two model files (6 GB, once); PYTHON=... picks a Python
# make test         every test but those that need servers, in two processes
# make test-all     what `make test` leaves out: a Prefect server with its workers, kills in every step, what else takes long, in two processes too
# make test-faults  a hundred kills of ranks that train, at steps and inside saves; MILLRACE_KILLS=... says how many
# make bench        the measurements behind the numbers in the README
# make bench-setup  the tools that it compares with, in an environment of their own (.bench, 2 GB); without them it says so
# make clean        removes the set-up and caches, never data (each recipe names its home folder)

RECIPE ?= flows/recipes/local.yaml
python := .venv/bin/python

# After set-up nothing is fetched and nobody is told anything.
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120
export TIKTOKEN_CACHE_DIR := $(CURDIR)/.venv/share/millrace/models

.PHONY: curriculum setup test test-all test-faults bench bench-setup clean

curriculum: setup
	.venv/bin/flows run curriculum --recipe $(RECIPE)

setup:
	@.ci/setup

test: setup
	$(python) -m pytest -m "not servers" -n 2

test-all: setup
	$(python) -m pytest -m servers -n 2

test-faults: setup
	MILLRACE_KILLS=$${MILLRACE_KILLS:-100} $(python) -m pytest -m servers tests/test_faults.py

bench: setup
	$(python) -m benchmarks

bench-setup: .bench/done

.bench/done: benchmarks/peers.txt | setup
	$(python) -m venv --clear .bench
	.bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf .bench .venv .setup build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
