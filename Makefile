# `make demo` and `make test` do everything on a fresh machine with Python 3.11+ and make.

# On a CPU machine this is the CPU build where there is one, on a GPU machine the CUDA build.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= results
# what Python compiles is kept, also where the shell says otherwise: the tests start some hundred processes
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install slurm chromium daemons text figures demo test check readme regression faults bench gpu-check clean

help:
	@echo "make demo       install, run the demo sweeps, draw their figures, print the verdicts"
	@echo "make test       install, lint, type check, test, regression; as root on Debian with its Slurm and Chromium, see below"
	@echo "make check      lint and type check alone"
	@echo "make slurm      Slurm from Debian's packages, for the tests that start one (as root)"
	@echo "make chromium   Chromium and its driver from Debian's packages, for the tests of pages (as root)"
	@echo "make regression coordinate checks of all shipped tables against sweeps/baseline.txt; UPDATE=--update-baseline renews it"
	@echo "make faults     kills, crashes, full disks, signals, random input: the sweep engine's figures, about an hour; FAULTS=kills for one"
	@echo "make text       161 MB of Python sources into data/text, by their hashes, for sweeps at real widths"
	@echo "make figures    figures and page of the sweeps at real widths, from the results kept in sweeps/kept, into $(RESULTS)/kept; the README's gallery"
	@echo "make readme     run the README's commands, renew what it quotes of them and its picture"
	@echo "make bench      op, step and coordinate check beside other libraries, tables in $(RESULTS)/bench"
	@echo "make gpu-check  tests, demo sweeps and bench on a CUDA device, results in $(RESULTS)/gpu-check"
	@echo "make clean      remove the environment and caches"

# another TORCH is another installation
STAMP := $(VENV)/.installed-$(subst /,_,$(subst :,_,$(firstword $(TORCH))))
install: $(STAMP)

# torch goes in first and alone, so that the project's range is met and no other build is fetched. What is
# installed is compiled by all cores: pip does it on one, in a minute.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mupcheck needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile "$(TORCH)" numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[test]"
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

# A Slurm for the tests that start one, from Debian's packages where this is root; where there is none, they are skipped.
# What cannot be reached is no reason to fail, and an old list of packages mostly does.
SLURM := slurmctld slurmd slurm-client
slurm:
	@if command -v slurmctld > /dev/null && command -v slurmd > /dev/null && command -v sbatch > /dev/null; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
		timeout 120 apt-get update -qq > /dev/null 2>&1; \
		DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -qq --no-install-recommends $(SLURM) > /dev/null 2>&1 \
			|| echo "no Slurm could be installed; its tests are skipped"; \
	else echo "no Slurm here; its tests are skipped"; fi

# A browser for the tests of pages, likewise.
CHROMIUM := chromium chromium-driver
chromium:
	@if command -v chromium > /dev/null && command -v chromedriver > /dev/null; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
		timeout 120 apt-get update -qq > /dev/null 2>&1; \
		DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -qq --no-install-recommends $(CHROMIUM) > /dev/null 2>&1 \
			|| echo "no Chromium could be installed; its tests are skipped"; \
	else echo "no Chromium here; its tests are skipped"; fi

# one after the other: there is one lock on Debian's packages
daemons:
	$(MAKE) slurm
	$(MAKE) chromium

# What sweeps at real widths train on; unpacked beside, then moved, so that it is there as a whole or not at all.
TEXT := data/text
text: $(TEXT)
$(TEXT): sweeps/text.txt | install
	rm -rf $(TEXT) $(TEXT).new
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes \
		--only-binary :all: --target $(TEXT).new --requirement sweeps/text.txt
	touch $(TEXT).new && mv $(TEXT).new $(TEXT)

# Results that took GPUs are kept in the repository, small; what `mupcheck run` finds in them it does not train again.
figures: install
	$(BIN)/python sweeps/keep.py --lay-out $(RESULTS)/kept
	$(BIN)/mupcheck plot $(RESULTS)/kept
	$(BIN)/mupcheck report $(RESULTS)/kept
	$(BIN)/python sweeps/gallery.py $(RESULTS)/kept

# exit code 3 is "cannot tell", which is an answer
demo: install
	$(BIN)/mupcheck run sweeps/demo_coord.toml --out $(RESULTS) || test $$? -eq 3
	$(BIN)/mupcheck run sweeps/demo_lr.toml --out $(RESULTS) || test $$? -eq 3
	$(BIN)/mupcheck plot $(RESULTS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Debian's packages come beside pip's, and mypy reads on one core what the regression trains.
TESTS ?= 2
test:
	$(MAKE) --jobs 2 install daemons
	$(MAKE) --jobs 2 check regression
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TESTS) --dist loadfile --durations 30 -m "not gpu"

# the lines that the README shows below its commands, and the picture of the run that it quotes
readme: install
	$(BIN)/python tests/readme/refresh.py

# Every shipped table, both optimizers, both modes, on the CPU. Verdicts are judged at the end, all at once.
REGRESSION := $(RESULTS)/regression
regression: install
	for sweep in sweeps/regression_*.toml; do \
		$(BIN)/mupcheck run $$sweep --device cpu --out $(REGRESSION) > /dev/null; \
		case $$? in 0|1|3) ;; *) exit 1 ;; esac; \
	done
	$(BIN)/mupcheck check $(REGRESSION) --baseline sweeps/baseline.txt $(UPDATE)

# What the sweep engine promises, measured. A shortened form of each part is among the tests; speed wants a machine that
# does nothing else.
FAULTS ?=
faults: install
	$(BIN)/python tests/faults $(FAULTS)

# Peers are measured where they are installed: flash-linear-attention with tilelang, flash-qla, mup.
BENCH ?= all
bench: install
	$(BIN)/mupcheck bench $(BENCH) --out $(RESULTS)/bench

# Right first, then fast: tests on the device, the demo sweeps, then the tables; each part says how long it took, and
# together they take at most 8 minutes. A part that fails does not keep the later ones from running, but fails the whole.
# Where python3 has a CUDA build of torch: make gpu-check GPU_PYTHON=python3. Tests mostly wait for compilers: several at once.
GPU_PYTHON ?= $(BIN)/python
GPU_OUT := $(RESULTS)/gpu-check
GPU_BENCH ?= bench all --quick
GPU_TESTS ?= 6
gpu-check:
	mkdir -p $(GPU_OUT)
	@failed=; \
	part() { \
		name=$$1; shift; start=$$(date +%s); \
		timeout 300 "$$@" > $(GPU_OUT)/$$name.txt 2> $(GPU_OUT)/$$name.err; code=$$?; \
		case $$name.$$code in \
			*.0|demo_*.3) ;; \
			*) failed="$$failed $$name"; tail -n 5 $(GPU_OUT)/$$name.txt $(GPU_OUT)/$$name.err ;; \
		esac; \
		echo "$$name: exit code $$code after $$(( $$(date +%s) - start )) s"; \
	}; \
	part doctor $(GPU_PYTHON) -m mupcheck doctor --json; \
	part tests $(GPU_PYTHON) -m pytest -q -m gpu --numprocesses $(GPU_TESTS) -p no:cacheprovider --junitxml=$(GPU_OUT)/tests.xml; \
	part demo_coord $(GPU_PYTHON) -m mupcheck run sweeps/demo_coord.toml --device cuda --out $(GPU_OUT); \
	part demo_lr $(GPU_PYTHON) -m mupcheck run sweeps/demo_lr.toml --device cuda --out $(GPU_OUT); \
	part plot $(GPU_PYTHON) -m mupcheck plot $(GPU_OUT); \
	part bench $(GPU_PYTHON) -m mupcheck $(GPU_BENCH) --device cuda --out $(GPU_OUT); \
	mv $(GPU_OUT)/doctor.txt $(GPU_OUT)/doctor.json; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
