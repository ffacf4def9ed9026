# What CI runs is what a person runs. `make` alone prints this help.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --constraint constraints.txt
STAMPS := $(VENV)/stamps
TORCH := 2.13.0
GROUPS_OF_TESTS := test-commands test-package test-comparisons test-serving
TENSORRT_NAMES := tensorrt-stubs==10.13.0.35.1 tensorrt-cu12-bindings==11.4.0.106

.PHONY: help quickstart test $(GROUPS_OF_TESTS) test-slow test-gpu gpu check format bench wheel clean

help: ## Print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

quickstart: $(STAMPS)/cpu ## Digits to a real Triton on this machine: data, train, export, serve, predict, verify
	$(BIN)/shrinkserve quickstart

test: $(STAMPS)/dev $(STAMPS)/chromium ## Run the tests
	@# Two groups at once, the longest first: a server's tests wait half of their time. Each is printed as it ends.
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target $(GROUPS_OF_TESTS)

test-commands:
	$(BIN)/python -m pytest tests/integration tests/gpu --ignore=tests/integration/test_comparisons.py

test-package:
	@# A process each, as in production: torch, DALI, OpenVINO and TensorRT-RTX in one, gRPC and the server in another.
	$(BIN)/python -m pytest --doctest-modules shrinkserve
	$(BIN)/python -m pytest tests/unit --ignore=tests/unit/exporting --ignore=tests/unit/runtimes --ignore=tests/unit/serving
	$(BIN)/python -m pytest tests/unit/exporting
	$(BIN)/python -m pytest tests/unit/runtimes

test-comparisons:
	$(BIN)/python -m pytest tests/integration/test_comparisons.py

test-serving:
	$(BIN)/python -m pytest tests/unit/serving

test-slow: $(STAMPS)/dev ## Run the tests that wait for the network's time-outs
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMPS)/dev ## Run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu tests/gpu

gpu: $(STAMPS)/dev ## Prove training and inference on this machine's GPU; writes bench/results/gpu
	$(BIN)/python bench/gpu.py --out bench/results/gpu

check: $(STAMPS)/dev ## Lint, formatting, types and import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo >$(STAMPS)/floors.log || { cat $(STAMPS)/floors.log; exit 1; }

format: $(STAMPS)/dev ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMPS)/dev ## Compare with peers on this machine; writes bench/results and bench/REPORT.md
	$(BIN)/python bench/run.py

wheel: $(STAMPS)/dev ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove the environment and what the quickstart made
	rm -rf $(VENV) dist quickstart

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "shrinkserve needs Python 3.10 or newer; found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# Without an NVIDIA GPU the CPU build of torch is a tenth of the download: taken when an index offers it.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then \
	  echo "NVIDIA GPU found: installing torch $(TORCH)"; $(PIP) torch==$(TORCH); \
	else \
	  echo "no NVIDIA GPU: installing the CPU build of torch $(TORCH)"; \
	  $(PIP) torch==$(TORCH)+cpu 2>/dev/null \
	  || $(PIP) --retries 0 --timeout 15 --extra-index-url https://download.pytorch.org/whl/cpu torch==$(TORCH)+cpu 2>/dev/null \
	  || $(PIP) torch==$(TORCH); \
	fi
	touch $@

$(STAMPS)/cpu: pyproject.toml constraints.txt | $(STAMPS)/torch
	$(PIP) --editable '.[cpu]'
	touch $@

# The report is looked at in a real browser; Debian's package, where this user may install it. The test says when it skips.
$(STAMPS)/chromium: | $(STAMPS)/venv
	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing chromium for the report's test"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; } \
	    >$(STAMPS)/chromium.log 2>&1 || echo "chromium could not be installed: its test will skip; see $(STAMPS)/chromium.log"; \
	fi
	touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt constraints-nodeps.txt | $(STAMPS)/torch
	$(PIP) --editable '.[cpu,openvino,dali,dev]'
	$(PIP) --no-deps --requirement constraints-nodeps.txt
	@# The published names of TensorRT 10 and 11: read by a test, never imported.
	$(BIN)/python -m pip download --quiet --no-input --disable-pip-version-check --no-deps --dest \
	  "$$($(BIN)/python -c 'import platformdirs; print(platformdirs.user_cache_path("shrinkserve") / "wheels")')" $(TENSORRT_NAMES)
	touch $@
