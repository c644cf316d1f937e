# make demo   set up, train the toy on the Python standard library, generate, tabulate, plot
# make test   set up, then lint, types and all tests
# make quick  the tests that take a moment each

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test quick lint clean

# The constraints file pins versions known to work together; pip takes a CPU build of torch where it is told of one.
$(BIN)/hunyuan: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev: $(BIN)/hunyuan
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(BIN)/hunyuan
	rm -rf $(DEMO)
	$(BIN)/hunyuan train --model toy --out $(DEMO)
	$(BIN)/hunyuan infer 'def __init__(self' --checkpoint $(DEMO) --tokens 100 --temperature 0.7 --top-p 0.9 --stats
	$(BIN)/hunyuan compare $(DEMO) --plot $(DEMO)/curves.png --plot-experts $(DEMO)/experts.png

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each: on two cores that is twice as fast as one process of two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: lint
	$(PYTEST)

quick: $(VENV)/dev
	$(PYTEST) -m 'not slow'

clean:
	rm -rf $(VENV) runs build *.egg-info
