# Both commands make their own environment; a second call starts at once.
#   make demo            the whole way on synthetic images
#   make demo BUSI=PATH  the same on a BUSI folder
#   make test            the test suite
VENV ?= .venv
PYTHON ?= python3
BUSI ?=
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint clean

demo: $(VENV)/.demo
	$(BIN)/busistore demo $(if $(BUSI),--busi "$(BUSI)" --folder busistore-demo-busi)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .

$(BIN)/python:
	$(PYTHON) -m venv "$(VENV)"

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf .venv build dist *.egg-info busistore-demo busistore-demo-busi
