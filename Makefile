# Each target does all of its own set-up and is quick when repeated.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# One thread a process: on a small machine two OpenMP threads beside another process run slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-slow test-gpu check format constraints tools docs
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/owl demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu and not net"

# pytest exits 5 when no test carries the mark, which is no failure.
test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m "slow and not gpu and not net" || test $$? -eq 5

# What only some slow tests need, and skip without: Ray, what drives a browser (Chromium comes from the system), and what
# builds the documentation.
tools: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cluster,browser,docs]"

test-gpu: $(READY)
	$(BIN)/python -m pytest -m "gpu and not net"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into site/. Its builder is wanted by nothing else, so it is installed here and not with the rest.
docs: $(READY)
	$(BIN)/python -c "import material, mkdocstrings, latex2mathml" 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

# After a change of dependencies: write down what is installed now. Local build tags (+cpu) would tie it to one index.
constraints:
	{ echo "# The exact versions the tests ran with; written by \`make constraints\`."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9]*$$//'; } > constraints.new
	mv constraints.new constraints.txt
	touch $(READY)
