# Everything runs in a virtual environment of its own, .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
FUZZ_SECONDS ?= 60
ARM64_TESTS ?= most
KERNELS_TESTS ?= most
STORM_ROUNDS ?= 10000
STORM_STARTS ?= 1000
STORM_ATTACKS ?= 1000
MUTANTS ?= 100
# In three processes, each test file in one of them: many tests wait, so that two would leave two processors idle.  In their own
# order, since the files with few tests, which would come last, take longest: one process would end long after the others.
# A process that crashes is not replaced: pytest-xdist would never end then.
IN_PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0
PYTEST_FLAGS ?= $(IN_PARALLEL) -m 'not long'

help:
	@echo 'make demo     learn a sample, show its policy, run it confined, explain a denial'
	@echo 'make test     the tests, but for the long ones; as root on Debian it first installs the packages that they need'
	@echo 'make long     the long tests: servers, services, packages, pages, limits, many random policies'
	@echo 'make check    ruff and mypy --strict'
	@echo 'make fuzz     try hostile files and random policies, FUZZ_SECONDS=60 for each of five targets'
	@echo 'make soak     run random process trees under learn for SOAK_SECONDS=7200'
	@echo 'make arm64    build an arm64 Debian in build/arm64, boot it in QEMU, and test there, in a quarter of an hour; as root on Debian'
	@echo 'make kernels  boot a Debian with Linux 5.10, 6.1, 6.12 and 7.x in QEMU, and test on each; as root on Debian, faster with KVM'
	@echo 'make storm    disturb enforce and programs in phases at random moments, STORM_ROUNDS=10000 STORM_STARTS=1000 STORM_ATTACKS=1000'
	@echo 'make bench    measure what learn and enforce cost; writes docs/benchmarks.md'
	@echo 'make corpus   learn and enforce real programs; writes docs/corpus.md'
	@echo 'make files    learn files of programs, and enforce them elsewhere; writes docs/files-measured.md'
	@echo 'make circumstances  count what is denied in other circumstances than the learned ones; writes docs/circumstances.md'
	@echo 'make suites   learn half of the test suites of other projects, enforce the rest; adds to docs/circumstances.md'
	@echo 'make determinism  learn programs in other circumstances, as root; writes docs/determinism.md'
	@echo 'make mutants  change the source at random, MUTANTS=100 times, and see which changes a test notices; writes docs/mutants.md'
	@echo 'make packages build wheel, sdist, zipapp and Debian package into build/packages, and try them in bare systems; as root'
	@echo 'make samples  learn the samples again; writes samples/*.policy'
	@echo 'make start    learn what the start policies are made from, into build/start; prints what they lack'
	@echo 'make commands write the completions, manual pages and docs/options.md from the commands'
	@echo 'make site     write the documentation as a site, into build/site; needs chromium, for a picture'
	@echo 'make clean    remove what was made'

demo: set-up $(VENV)/installed
	@sh samples/demo.sh $(abspath $(BIN)) $(DEMO)

test: set-up-tests $(VENV)/developer
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

long: set-up-long $(VENV)/developer
	$(BIN)/python -m pytest $(IN_PARALLEL) -m long

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

packages: set-up-long $(VENV)/developer
	tools/packaging/build.sh build/packages
	$(BIN)/python tools/packaging/check.py build/packages

arm64:
	tools/emulated/build.sh arm64 build/arm64
	tools/emulated/run.sh -t 3000 -m 3072 build/arm64 'sh tools/arm64/check.sh $(ARM64_TESTS)'

kernels:
	tools/emulated/build.sh amd64 build/kernels bullseye bookworm trixie trixie-backports
	for kernel in build/kernels/boot/*; do \
		tools/emulated/run.sh -l $$(basename $$kernel) -t 3000 -m 3072 build/kernels 'sh tools/kernels/check.sh $(KERNELS_TESTS)' || exit; done

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
	cd build/suites && for package in bash gawk tcl8.6 perl grep coreutils sed zsh busybox gzip diffutils findutils patch bc gnuplot pari python3.13; do apt-get source -q --download-only $$package; done
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

start: set-up-long $(VENV)/installed
	$(BIN)/python tools/measuring/start_policies.py build/start

commands: completions manuals options helper-filter

site: $(VENV)/developer
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/developer: pyproject.toml | $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/installed

# With NO_INSTALL=1 they only say what is missing.
set-up: python-is-new-enough
	@$(PYTHON) tools/set_up.py

set-up-tests: python-is-new-enough
	@$(PYTHON) tools/set_up.py tests

set-up-long: python-is-new-enough
	@$(PYTHON) tools/set_up.py tests 'long tests'

set-up-circumstances: python-is-new-enough
	@$(PYTHON) tools/set_up.py tests circumstances

python-is-new-enough:
	@command -v $(PYTHON) >/dev/null || { echo 'callfence: $(PYTHON) is missing; it needs Python 3.11 or newer' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'callfence: $(PYTHON) is too old; it needs Python 3.11 or newer: make PYTHON=python3.x ...' >&2; exit 1; }

clean:
	rm -rf $(VENV) build samples/build
	find . -name __pycache__ -prune -exec rm -rf {} +

.NOTPARALLEL: # two targets may install packages
.PHONY: help demo test long check packages fuzz soak arm64 storm bench corpus circumstances files suites mutants determinism samples start commands completions manuals options helper-filter clean set-up set-up-tests set-up-long set-up-circumstances python-is-new-enough site kernels
