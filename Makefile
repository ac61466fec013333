# Two commands matter: `make demo` and `make test`. Both need Python >= 3.11, make and a package index, nothing else.
PYTHON ?= python3
VENV   ?= .venv
REPORT ?= demo-report
JOBS   ?= 2
# Of pip; empty: the newest versions that pyproject.toml allows.
CONSTRAINTS ?= --constraint constraints.txt
FRESH  ?= /tmp/latens-dist
# Of make fuzz, kill and diskfault: time for every verb, and the choice of files and faults.
SECONDS_EACH ?= 60
SEED         ?= 0

BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS)
SOURCES  := src tests docs $(wildcard examples) $(wildcard benchmarks)
STAMP    := $(VENV)/.latens
SHAPED   := tests/codes tests/nn tests/training
# Two workers share the cores: one thread each is faster than two that fight.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test dev lint format types imports tests shapes docs docs-test fuzz kill diskfault portable dist dist-check clean

demo: $(STAMP)
	$(BIN)/latens demo -o $(REPORT)

test: dev lint types imports tests shapes

dev: $(STAMP)-dev

lint: dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

types: dev
	$(BIN)/mypy

imports: dev
	$(BIN)/lint-imports

tests: dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not gpu" $(SHAPED:%=--ignore=%)
	$(ONE_THREAD) $(BIN)/python -m pytest -m wrong_types $(SHAPED)

# The tests of these packages run once, with their shape annotations checked at every call.
shapes: dev
	$(ONE_THREAD) $(BIN)/python -m pytest -p tests.shape_checks -n $(JOBS) -m "not gpu" $(SHAPED)

# Wheel and sdist, checked; then the wheel alone, in a fresh environment and far from the checkout.
dist: dev
	$(PIP) '.[dist]'
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/check_wheel.py dist

dist-check: dist
	rm -rf $(FRESH) && $(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) dist/*.whl
	cd $(FRESH) && bin/latens demo -o report --force

# The site, in site/. The same build runs in the tests.
docs: dev
	$(BIN)/python docs/pages.py build/pages
	$(BIN)/zensical build --clean --strict

# The commands of all pages; `make test` runs those of a few.
docs-test: dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --timeout 1800 --all-documents tests/test_marks.py

# The campaigns, of which `make tests` runs a few seconds: fuzzed files, dying processes, failing disks.
CAMPAIGN = $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --timeout 3600 \
  --campaign-seconds $(SECONDS_EACH) --campaign-seed $(SEED)

fuzz: dev
	$(CAMPAIGN) tests/campaigns/test_fuzz.py tests/codes/test_stream.py tests/codes/test_clip_stream.py

kill: dev
	$(CAMPAIGN) tests/campaigns/test_kill.py tests/campaigns/test_kill_training.py

diskfault: dev
	$(CAMPAIGN) tests/campaigns/test_diskfault.py

# Stored files under every instruction set that this machine can be held to.
portable: dev
	$(BIN)/python benchmarks/portable.py

# Planted mistakes (tests/mutants.toml), then a sample of mechanical ones: two numbers, under half an hour of CPU time.
mutants: dev
	$(PIP) --editable '.[mutants]'
	$(BIN)/python benchmarks/mutants.py planted --jobs $(JOBS)
	$(BIN)/python benchmarks/mutants.py sampled --jobs $(JOBS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "latens needs Python 3.11 or newer; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what it was made from, so nothing is installed twice.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing latens into $(VENV) (torch is large: a few minutes the first time)"
	$(PIP) --editable .
	@touch $@

$(STAMP)-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing latens and its development tools into $(VENV) (torch is large: a few minutes the first time)"
	$(PIP) --editable '.[dev]'
	@touch $@ $(STAMP)
