# Everything runs in a virtual environment of its own, .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
FUZZ_SECONDS ?= 60
ARM64_TESTS ?= all
STORM_ROUNDS ?= 10000
STORM_STARTS ?= 1000
STORM_ATTACKS ?= 1000
MUTANTS ?= 100
# In three processes, each test file in one of them: many tests wait, so that two would leave two processors idle.  In their own
# order, since the files with few tests, which would come last, take longest: one process would end long after the others.
PYTEST_FLAGS ?= -n 3 --dist loadfile --no-loadscope-reorder
# A path instead of setuptools' import hook, which would take 10 ms of every start.
EDITABLE := --config-settings editable_mode=compat

help:
	@echo 'make demo     learn a sample, show its policy, run it confined, explain a denial'
	@echo 'make test     all tests; as root on Debian it first installs the packages that they need'
	@echo 'make check    ruff and mypy --strict'
	@echo 'make fuzz     try hostile files and random policies, FUZZ_SECONDS=60 for each of five targets'
	@echo 'make soak     run random process trees under learn for SOAK_SECONDS=7200'
	@echo 'make arm64    build an arm64 Debian in build/arm64, boot it in QEMU, and test there, in about ten minutes; as root on Debian'
	@echo 'make storm    disturb enforce and programs in phases at random moments, STORM_ROUNDS=10000 STORM_STARTS=1000 STORM_ATTACKS=1000'
	@echo 'make bench    measure what learn and enforce cost; writes docs/benchmarks.md'
	@echo 'make corpus   learn and enforce real programs; writes docs/corpus.md'
	@echo 'make files    learn files of programs, and enforce them elsewhere; writes docs/files-measured.md'
	@echo 'make circumstances  count what is denied in other circumstances than the learned ones; writes docs/circumstances.md'
	@echo 'make suites   learn half of the test suites of other projects, enforce the rest; adds to docs/circumstances.md'
	@echo 'make determinism  learn programs in other circumstances, as root; writes docs/determinism.md'
	@echo 'make mutants  change the source at random, MUTANTS=100 times, and see which changes a test notices; writes docs/mutants.md'
	@echo 'make samples  learn the samples again; writes samples/*.policy'
	@echo 'make start    learn what the start policies are made from, into build/start; prints what they lack'
	@echo 'make commands write the completions, manual pages and docs/options.md from the commands'
	@echo 'make clean    remove what was made'

demo: set-up $(VENV)/installed
	@sh samples/demo.sh $(abspath $(BIN)) $(DEMO)

test: set-up-tests $(VENV)/developer
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(VENV)/developer
	$(BIN)/ruff check .
	$(BIN)/mypy

# Hypothesis remembers what failed in .hypothesis, so `make test` tries it again.
fuzz: $(VENV)/developer
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	for target in policy recording filter lift formats; do $(BIN)/python tools/fuzz.py $$target $(FUZZ_SECONDS) || exit; done
	$(BIN)/python -m pytest -q -m hypothesis --hypothesis-seed=random tests

soak: $(VENV)/installed
	$(BIN)/python tools/soak.py $(SOAK_SECONDS)

arm64:
	tools/arm64/build.sh build/arm64
	tools/arm64/run.sh -t 1500 -m 3072 build/arm64 'sh tools/arm64/check.sh $(ARM64_TESTS)'

storm: $(VENV)/installed
	$(BIN)/python tools/storm/storm.py $(STORM_ROUNDS)
	$(BIN)/python tools/storm/storm_phases.py --long $(STORM_STARTS)
	$(BIN)/python tools/storm/storm_attacks.py $(STORM_ATTACKS)
	$(BIN)/python tools/storm/storm_hosts.py
	$(BIN)/python tools/storm/storm_events.py

bench: $(VENV)/installed
	$(BIN)/python bench/run.py docs/benchmarks.md

corpus: $(VENV)/developer
	$(BIN)/python -m pytest tests/programs/test_real_programs.py --write-corpus docs/corpus.md

circumstances: set-up-circumstances $(VENV)/installed
	mkdir -p build && rm -f build/circumstances.jsonl
	$(BIN)/python bench/circumstances/run.py build/circumstances.jsonl
	$(BIN)/python bench/circumstances/table.py build/circumstances.jsonl docs/circumstances.md

# The sources must be available to apt (deb-src).
suites: $(VENV)/installed
	mkdir -p build/suites && rm -f build/suites.jsonl
	cd build/suites && for package in bash gawk tcl8.6 perl grep coreutils sed zsh busybox python3.13; do apt-get source -q --download-only $$package; done
	$(BIN)/python bench/suites/run.py build/suites build/suites.jsonl
	$(BIN)/python bench/suites/table.py build/suites.jsonl docs/circumstances.md

files: set-up-circumstances $(VENV)/installed
	$(BIN)/python bench/circumstances/files.py docs/files-measured.md
	$(BIN)/python bench/circumstances/file_peers.py docs/files-measured.md

mutants: set-up-tests $(VENV)/developer
	$(BIN)/python tools/measuring/mutants.py docs/mutants.md $(MUTANTS)

determinism: $(VENV)/installed
	$(BIN)/python tools/measuring/determinism.py docs/determinism.md

samples: $(VENV)/developer
	$(BIN)/python -m pytest tests/programs/test_samples.py tests/programs/test_changes.py --update-policies

start: set-up-tests $(VENV)/installed
	$(BIN)/python tools/measuring/start_policies.py build/start

commands: completions manuals options helper-filter


completions: $(VENV)/developer
	$(BIN)/python tools/make_completions.py completions

manuals: $(VENV)/installed
	$(BIN)/python tools/make_manuals.py man

options: $(VENV)/installed
	$(BIN)/python tools/make_options.py docs

helper-filter: $(VENV)/installed
	$(BIN)/python tools/make_helper_filter.py enforcer/filters

$(VENV)/python: | set-up
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . $(EDITABLE)
	touch $@

$(VENV)/developer: pyproject.toml | $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(EDITABLE)
	touch $@ $(VENV)/installed

# With NO_INSTALL=1 they only say what is missing.
set-up: python-is-new-enough
	@$(PYTHON) tools/set_up.py

set-up-tests: python-is-new-enough
	@$(PYTHON) tools/set_up.py tests

set-up-circumstances: python-is-new-enough
	@$(PYTHON) tools/set_up.py tests circumstances

python-is-new-enough:
	@command -v $(PYTHON) >/dev/null || { echo 'callfence: $(PYTHON) is missing; it needs Python 3.11 or newer' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'callfence: $(PYTHON) is too old; it needs Python 3.11 or newer: make PYTHON=python3.x ...' >&2; exit 1; }

clean:
	rm -rf $(VENV) build samples/build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

.NOTPARALLEL: # two targets may install packages
.PHONY: help demo test check fuzz soak arm64 storm bench corpus circumstances files suites mutants determinism samples start commands completions manuals options helper-filter clean set-up set-up-tests set-up-circumstances python-is-new-enough
