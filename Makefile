# make curriculum   raw text -> tables -> shards -> a trained model -> a report; RECIPE=my.yaml runs another recipe
# make setup        only the virtual environment, Delta's JARs and two model files (6 GB, once); PYTHON=... picks a Python
# make test         every test
# make bench        the measurements behind the numbers in the README
# make clean        removes the set-up and caches, never data (each recipe names its home folder)

RECIPE ?= flows/recipes/local.yaml
python := .venv/bin/python

# After set-up nothing is fetched and nobody is told anything.
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120
export TIKTOKEN_CACHE_DIR := $(CURDIR)/.venv/share/millrace/models

.PHONY: curriculum setup test bench clean

curriculum: setup
	.venv/bin/flows run curriculum --recipe $(RECIPE)

setup:
	@.ci/setup

test: setup
	$(python) -m pytest

bench: setup
	$(python) -m benchmarks

clean:
	rm -rf .venv .setup build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
