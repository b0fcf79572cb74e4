# Every target makes what it needs from python3, venv and make; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax

.PHONY: demo test test-slow test-multi lint bench results clean

demo: $(VENV)/.experiments  ## PPO solves CartPole; the same command resumes
	$(BIN)/python -m experiments.train --config=configs/ppo_cartpole.py --workdir=runs/demo

test: $(VENV)/.dev  ## the fast tests and every docstring example
	$(CACHE) $(BIN)/python -m pytest -n 2 --dist worksteal --doctest-modules --jaxtyping-packages=mathai.nn,mathai.rl,mathai.generative,mathai.kernel,mathai.reduction,mathai.models,beartype.beartype tests mathai experiments configs

test-slow: $(VENV)/.dev  ## learning to a score
	$(CACHE) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow tests

test-multi: $(VENV)/.dev  ## several devices and processes, simulated
	$(CACHE) $(BIN)/python -m pytest -m multi tests

lint: $(VENV)/.dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.bench  ## time formulas and learners beside their peers
	$(BIN)/python -m experiments.benchmark --suite=nn,losses,attention,ppo,svm,tsne,umap --peers --out=runs/bench

results: $(VENV)/.experiments  ## write README's results from the records in results/
	$(BIN)/python -m experiments.results

clean:  ## remove the environment and the caches, keep the runs
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[$*]'
	@touch $@

.SECONDARY: $(BIN)/python
.PRECIOUS: $(VENV)/.%
