# Each target works on a fresh machine: what it needs is installed into .venv first.
#
#   make demo    an image of two personalized concepts, made offline by the embedded model
#   make test    the tests, as many at a time as there are cores, and how much of the code they reach
#   make coverage  the same, with every line and branch that they do not reach
#   make lint    style, types, and which room imports from which
#   make format  put the code into the style that lint expects
#   make bench   speed (ratios in one run) and peak memory of 1 to 8 concepts, a few minutes on two cores
#   make clean   remove .venv and what was made
#
# PYTHON=python3.12 chooses the interpreter, ARGS="-k images" goes to pytest (ARGS="-n 0" for one at a time).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
TORCH := torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
DEMO := examples/two_backpacks.yaml
CODE := src tests benchmarks examples
# Neighbouring tests share models, so that each worker takes a stretch of them, and what is left of another's at the end.
# (transformers' hints would come after pytest's closing line.)
PYTEST := TRANSFORMERS_VERBOSITY=error $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test coverage lint format bench clean

demo: $(VENV)/.package
	$(BIN)/conductor generate $(DEMO)

test: $(VENV)/.dev
	$(PYTEST) --cov --cov-report= $(ARGS)

coverage: $(VENV)/.dev
	$(PYTEST) --cov --cov-branch $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --exit-zero $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/speed.py tests/parity/sd15
	$(BIN)/python benchmarks/speed.py mini
	$(BIN)/python benchmarks/memory.py mini
	@echo "Seconds per image and peak memory at SD1.5's size, on a CUDA card: $(BIN)/python benchmarks/full_size.py"

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.package: pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# On Linux, PyPI's torch brings gigabytes of CUDA. Where there is no NVIDIA GPU, PyTorch's own index of CPU builds
# is asked too, if it can be reached (in 5 s); a local index or wheel folder set up for pip serves as well.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; choose one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch first; a few minutes the first time) ..."
	@index=; \
	if [ "$$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1 && \
	   $(BIN)/python -c 'import urllib.request as r; r.urlopen("$(CPU_INDEX)/torch/", timeout=5)' >/dev/null 2>&1; \
	then index="--extra-index-url $(CPU_INDEX)"; fi; \
	$(PIP) install --quiet -c constraints.txt $(TORCH) $$index
	@touch $@
