# `make` prints the targets. CI runs `make check` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps
HASHED := $(PIP) --require-hashes
STAMPS := $(VENV)/stamps
TORCH := 2.13.0
GROUPS_OF_TESTS := test-commands test-serving test-package test-training test-comparisons test-exporting test-runtimes test-examples
TRAINING_TESTS := tests/integration/test_train.py tests/integration/test_train_failures.py tests/integration/test_launchers.py

.PHONY: help quickstart test $(GROUPS_OF_TESTS) test-slow test-gpu gpu check format bench wheel clean

help: ## Print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

quickstart: $(STAMPS)/cpu ## Run all stages on this machine: data, train, export, serve, predict, verify
	$(BIN)/shrinkserve quickstart

test: $(STAMPS)/dev $(STAMPS)/chromium ## Run the tests
	@# Three groups run at a time on two cores, the longest first: tests with a server wait half of the time.
	@$(MAKE) --no-print-directory --jobs=3 --keep-going --output-sync=target $(GROUPS_OF_TESTS)

test-commands:
	$(BIN)/python -m pytest tests/integration tests/gpu $(TRAINING_TESTS:%=--ignore=%) --ignore=tests/integration/test_comparisons.py

test-training:
	$(BIN)/python -m pytest $(TRAINING_TESTS) tests/unit/training

# Separate processes, as in production: torch, DALI, OpenVINO and TensorRT-RTX do not share one with gRPC.
test-package:
	$(BIN)/python -m pytest tests/unit --ignore=tests/unit/exporting --ignore=tests/unit/runtimes --ignore=tests/unit/serving --ignore=tests/unit/training

test-exporting:
	$(BIN)/python -m pytest tests/unit/exporting

test-runtimes:
	$(BIN)/python -m pytest tests/unit/runtimes

test-examples:
	$(BIN)/python -m pytest --doctest-modules shrinkserve

test-comparisons:
	$(BIN)/python -m pytest tests/integration/test_comparisons.py

test-serving:
	$(BIN)/python -m pytest tests/unit/serving

test-slow: $(STAMPS)/dev ## Run the tests that wait for network timeouts, and fuzz for minutes
	$(BIN)/python -m pytest -m slow
	FUZZ_SECONDS=60 $(BIN)/python -m pytest $$(grep -rl '^@given' tests/unit)

test-gpu: $(STAMPS)/dev ## Run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu tests/gpu

gpu: $(STAMPS)/dev ## Test and measure training and inference on this machine's GPU; writes bench/results/gpu
	$(BIN)/python bench/gpu.py --out bench/results/gpu

check: $(STAMPS)/dev ## Check lint, formatting, types, import layers and the documentation's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports --no-logo >$(STAMPS)/layers.log || { cat $(STAMPS)/layers.log; exit 1; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(STAMPS)/dev ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMPS)/dev ## Compare with other tools on this machine; writes bench/results and bench/REPORT.md
	$(BIN)/python bench/run.py

wheel: $(STAMPS)/dev ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove the environment and the files of the quickstart
	rm -rf $(VENV) dist quickstart

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "shrinkserve needs Python 3.10 or newer; found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# Without an NVIDIA GPU the CPU build of torch is a tenth of the download. It is on the machine's disk (PIP_FIND_LINKS) or in
# PyTorch's index, which is used for no other package. Only this package is installed without a hash of ours.
$(STAMPS)/torch: requirements/torch-gpu.txt | $(STAMPS)/venv
	@if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then \
	  echo "NVIDIA GPU found: installing torch $(TORCH)"; $(HASHED) --requirement requirements/torch-gpu.txt; \
	else \
	  echo "no NVIDIA GPU: installing the CPU build of torch $(TORCH)"; \
	  $(PIP) --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu torch==$(TORCH)+cpu \
	  || { echo "no CPU build: installing torch from PyPI"; $(HASHED) --requirement requirements/torch-gpu.txt; }; \
	fi
	touch $@

$(STAMPS)/cpu: pyproject.toml requirements/cpu.txt | $(STAMPS)/torch
	$(HASHED) --requirement requirements/cpu.txt
	$(PIP) --no-build-isolation --editable .
	touch $@

# A test shows the report in a browser. It is skipped where Chromium cannot be installed.
$(STAMPS)/chromium: | $(STAMPS)/venv
	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing chromium"; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; } \
	    >$(STAMPS)/chromium.log 2>&1 || echo "cannot install chromium, its tests are skipped; see $(STAMPS)/chromium.log"; \
	fi
	touch $@

$(STAMPS)/dev: requirements/dev.txt requirements/peers.txt requirements/tensorrt.txt $(STAMPS)/cpu
	$(HASHED) --requirement requirements/dev.txt --requirement requirements/peers.txt
	@# A test reads the published names of TensorRT 10 and 11; nothing imports them.
	$(BIN)/python -m pip download --quiet --no-input --disable-pip-version-check --no-deps --require-hashes --dest \
	  "$$($(BIN)/python -c 'import platformdirs; print(platformdirs.user_cache_path("shrinkserve") / "wheels")')" \
	  --requirement requirements/tensorrt.txt
	touch $@
