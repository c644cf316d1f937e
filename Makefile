# make demo   set up, train the toy on the Python standard library, generate, tabulate, plot
# make test   set up, then lint, types and all tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test lint clean

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

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) runs build *.egg-info
