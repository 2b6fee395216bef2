# Verbs of this project. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
MODEL  ?=
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

VLLM   := $(VENV)/vllm/bin/python

.DEFAULT_GOAL := help
.PHONY: help serve install test test-slow test-vllm test-vllm-upstream check format bench clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## serve a model on 127.0.0.1:8000 [MODEL=folder or Hugging Face id] [ARGS="--port 8001"]
	@exec $(BIN)/brim serve $(MODEL) $(ARGS)

install: $(VENV)/.dev ## set up .venv with everything for development

test: $(VENV)/.dev ## all tests but the slow ones [ARGS="-k prefix"]
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(VENV)/.dev ## the slow tests: many crashes, long random histories
	$(BIN)/python -m pytest -m slow $(ARGS)

test-vllm: $(VENV)/vllm/.done ## Brim inside vLLM on CPU, slow tests too, its HTTP server too [ARGS="-k histories"]
	$(VLLM) -m pytest tests/plugins tests/e2e/test_vllm_server.py $(ARGS)

test-vllm-upstream: $(VENV)/vllm/.done ## vLLM's own scheduler tests with Brim's class [ARGS="--version 0.33.0"]
	$(VLLM) -m tests.plugins.vllm.upstream $(ARGS)

check: $(VENV)/.dev ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## the benchmarks, side by side in one run each
	$(BIN)/python benchmarks/scheduler_step.py
	$(BIN)/python benchmarks/simulator.py
	$(BIN)/python benchmarks/http_streams.py
	$(BIN)/python benchmarks/local_decode.py
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.local_frontier

clean: ## remove .venv and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Brim needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) (PyTorch is a large download; this happens once) ..."
	$(PIP) --editable ".[server,local]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up $(VENV) for development (PyTorch is a large download; this happens once) ..."
	$(PIP) --editable ".[dev]"
	@touch $(VENV)/.serve $@

# vLLM pins what the servers use, so it has an environment of its own. The three that are removed are linked
# against CUDA, and break the import of transformers beside a CPU build of torch.
$(VENV)/vllm/.done: pyproject.toml tests/plugins/vllm/requirements.txt tests/plugins/vllm/constraints.txt
	@echo "Setting up $(VENV)/vllm (vLLM is a large download; this happens once) ..."
	$(PYTHON) -m venv $(VENV)/vllm
	$(VLLM) -m pip --disable-pip-version-check install --quiet --requirement tests/plugins/vllm/requirements.txt \
	  --constraint tests/plugins/vllm/constraints.txt --editable ".[server]"
	$(VLLM) -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM) -m tests.plugins.vllm.sources
	@touch $@
