PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export OMP_NUM_THREADS = 1
# Bytecode is kept: without it every worker and every command compiles torch anew, which takes half of its time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick check stack test-stack format install install-dev clean

# A stamp is newer than the files that decide what is installed, so that a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[examples]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# Search on the bundled example; goes on with it when it was begun before.
demo: install
	$(BIN)/autocompress search experiments/mnist5k_lenet/search.yaml --resume

# Properties are tried on the same examples each time; pytest by itself draws others.
test: install-dev
	$(BIN)/python -m pytest --hypothesis-profile=ci --numprocesses 2 --dist loadfile --no-loadscope-reorder

# For while one works: the first tests of every file that starts neither Ray nor servers.
quick: install-dev
	$(BIN)/python -m pytest --quick --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# The services of docker/compose.yaml as processes of this machine, until Ctrl-C; Postgres has to be installed.
stack: install-dev
	$(BIN)/python docker/stack.py

test-stack: install-dev
	$(BIN)/python -m pytest -m stack tests/docker

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
