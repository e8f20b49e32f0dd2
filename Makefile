# make demo   set everything up and run the main job on real text (about ten minutes on 2 cores)
# make test   set everything up and run the whole test suite (about fifteen minutes on 2 cores)
# make test-every   every legal combination of all choices against the reference (hours)
# make check  linters, types, import rules, the documentation's code
# make bench  every row beside its peer or mark, into one JSON and one picture (an environment of its own; half an hour)

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
ARGS ?=

.PHONY: demo test test-quick test-every check bench clean

demo: .venv/ready
	$(BIN)/mnemos demo $(ARGS)

# Two workers of one thread each: threads that wait for a busy core would spin away most of the time.
test test-quick test-every check: export OMP_NUM_THREADS := 1

test: .venv/ready
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

test-quick: .venv/ready
	$(BIN)/pytest -n 2 --dist worksteal -m "not long and not exhaustive" $(ARGS)

test-every: .venv/ready
	$(BIN)/pytest -n 2 --dist worksteal -m exhaustive $(ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright
	$(BIN)/pytest -q tests/docs

bench: .venv-bench/ready
	.venv-bench/bin/python benchmarks/peers.py $(ARGS)
	.venv-bench/bin/python benchmarks/growth.py $(ARGS)
	.venv-bench/bin/python benchmarks/memory.py
	.venv-bench/bin/python benchmarks/training.py
	.venv-bench/bin/python benchmarks/picture.py

# torch first and by itself: what follows keeps the build that is there, so bring your own by TORCH=...
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv-bench/ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check "$(TORCH)"
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -e ".[report,benchmarks]"
	touch $@

clean:
	rm -rf .venv .venv-bench .venv-kvpress .pytest_cache .ruff_cache
