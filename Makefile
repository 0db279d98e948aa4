# Everything a person or a machine runs here. `make demo` and `make test` need nothing but Python, a C++ compiler, CMake and OpenSSL headers.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FUZZ_S ?= 3600
# Many tests wait for a process more than they compute.
TEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench bench-guard bench-rival attack-stock record-guard fuzz coverage clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: rpcmesh needs Python 3.11 or newer'; echo 'hint: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo 'error: this Python cannot make virtual environments'; echo 'hint: sudo apt-get install -y python3-venv'; exit 1; }
	@echo 'installing Python packages into $(VENV)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# LLAMA_BUILD=OFF: the bindings alone; `rpcmesh build` compiles the one llama.cpp that engine and workers share.
	@$(BIN)/python -m pip install -qq -c constraints.txt --config-settings cmake.args=-DLLAMA_BUILD=OFF llama-cpp-python
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## a coordinator and two nodes on this machine answer a question over mutual TLS
	@$(BIN)/rpcmesh demo

test: lint ## everything a reviewer would run
	@# A file's tests share their processes, and stay together.
	@$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## ruff, and mypy for Linux and macOS
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --platform darwin

format: $(STAMP) ## rewrite the sources as `make lint` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## decoding through the mesh beside llama.cpp's own plaintext RPC
	@$(BIN)/rpcmesh bench tunnel

attack-stock: $(STAMP) ## every attack of the tests on a stock server: the table of docs/threat-model.md
	@$(BIN)/python tests/integration/attack_stock.py

bench-guard: $(STAMP) ## what the guard costs: a graph, payloads, decoding with it and without
	@$(BIN)/rpcmesh bench guard

bench-rival: $(STAMP) ## our endpoint beside llama-server from the same source; compiles it the first time
	@$(BIN)/rpcmesh bench serve --rival --overhead

fuzz: $(STAMP) ## the guard and the tunnel against made-up bytes, FUZZ_S seconds; what is found stays in the cache
	@$(BIN)/python tests/unit/native/fuzzing.py --seconds $(FUZZ_S)

coverage: $(STAMP) ## how much of the guard its tests reach, by line and branch; fails below 95 %
	@$(BIN)/python tests/unit/native/guard_coverage.py

record-guard: $(STAMP) ## the sessions that the guard's tests replay, recorded again; MODELS=... for some of them
	@PYTHONPATH=tests:tests/integration $(BIN)/python -m recordings $(MODELS)

clean: ## remove what was installed here; builds and downloads stay in the user's cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache dist
