# Slipway: `make help` lists what there is. Everything is installed into .venv; nothing else on the machine changes but
# the Debian packages that tools/system_packages.sh names.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
UV := UV_LINK_MODE=$(or $(UV_LINK_MODE),hardlink) $(BIN)/uv
WORKERS ?= 2
CLUSTER_TESTS ?= tests/cluster

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/uv:
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or newer with venv is needed: apt-get install python3 python3-venv" >&2; exit 1; }
	@echo "[setup] virtual environment in .venv ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

# One stamp a lock: an environment is installed once, and again when its lock changes.
.venv/.%-installed: requirements/%.txt pyproject.toml | $(BIN)/uv
	@echo "[setup] Python packages of requirements/$*.txt"
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r $<
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: help setup demo test test-cluster lint bench simulate-full generate lock clean

setup: .venv/.local-installed ## Install what the local plane needs (Debian packages, .venv)
	@tools/system_packages.sh redis-server prometheus

demo: setup ## Train on real film ratings, roll a better model out, take two bad ones back, write demo/report.html
	@$(BIN)/python -m slipway.examples.films.demo --directory demo

test: .venv/.dev-installed ## Run all tests
	@tools/system_packages.sh redis-server prometheus chromium
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --ignore tests/end_to_end
	@echo "[test] a whole project with real traffic, alone on the machine"
	@$(BIN)/python -m pytest tests/end_to_end

test-cluster: .venv/.dev-installed ## Run the tests that need a cluster: KUBECONFIG, and KF_PIPELINES_ENDPOINT for runs
	@[ -n "$(KUBECONFIG)" ] || { echo "error: set KUBECONFIG to a cluster's configuration" >&2; exit 2; }
	@KUBECONFIG="$(KUBECONFIG)" $(BIN)/python -m pytest -n 0 -rs -m cluster $(CLUSTER_TESTS)

lint: .venv/.dev-installed ## Style, types and import directions
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: .venv/.dev-installed ## Measure every figure that the README states
	@tools/system_packages.sh redis-server prometheus
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

simulate-full: .venv/.dev-installed ## Simulate the standard policy beside its peers, 10,000 rollouts where a claim needs them (under an hour)
	@mkdir -p build/simulation
	@echo "[simulate] equal candidates, and effects of twice the margin: 200 rollouts a cell through decide() too"
	@$(BIN)/slipway simulate --preset standard --rate 10 --rate 100 --rate 1000 --effect none --effect errors+2 \
	  --effect latency+112% --effect clicks-16.6% --runs 10000 --check 200 -o json > build/simulation/claims.json
	@echo "[simulate] equal candidates on every kind of traffic"
	@$(BIN)/slipway simulate --preset standard --rate 100 --effect none --traffic constant --traffic diurnal \
	  --traffic bursts --traffic drift --traffic bad-minutes --traffic gaps --traffic resets --traffic restarts \
	  --runs 10000 --check 10 --calibrate -o json > build/simulation/traffic.json
	@echo "[simulate] effects and traffic, beside peers at the same rate of false rollbacks"
	@$(BIN)/slipway simulate --preset standard --runs 300 --check 1 --calibrate -o json \
	  --plot build/simulation/effects.svg > build/simulation/effects.json

images: ## Build the container images, or one with IMAGE=predictor
	@$(PYTHON) containers/build.py $(IMAGE)

images-check: .venv/.dev-installed ## Run and look into the images that are built
	@$(BIN)/python -m pytest -m container -n 0 tests/containers

generate: .venv/.dev-installed ## Make again what is made: the chart's README, dashboards, kustomize manifests (needs helm)
	@$(BIN)/python tools/chart_readme.py
	@$(BIN)/python tools/render_dashboards.py
	@$(BIN)/python tools/render_manifests.py

lock: | $(BIN)/uv ## Resolve the requirements anew
	@tools/lock.sh $(BIN)/uv

clean: ## Remove the environment, caches and the demo's output
	@[ ! -x $(BIN)/slipway ] || [ ! -f demo/slipway.yaml ] || $(BIN)/slipway down -f demo/slipway.yaml || true
	@rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
