# A fresh machine needs nothing else: every target first installs what it uses into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart test test-faults check coverage lint format bench docs reproduce-check slurm-install slurm-demo browser-install chess-install

quickstart: $(VENV)/.installed  ## install, train the small sweep, print its table
	$(BIN)/imagine-sweep launch sweeps/quick.yaml
	$(BIN)/imagine-results table --group gol,model_t

test: $(VENV)/.installed-test lint  ## lint, and every test that this machine can run but the long ones
	$(BIN)/python -m pytest -n 2 -m "not fault" --durations=15

test-faults: $(VENV)/.installed-test  ## the long tests: whole sweeps on a real Slurm that breaks underneath them, load, kernels for GPUs
	$(BIN)/python -m pytest -n 2 -m fault --durations=15

check: $(VENV)/.installed-test lint  ## lint and the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow and not fault"

coverage: $(VENV)/.installed-test  ## the fast tests, with the share of lines that they run
	$(BIN)/python -m pytest -n 2 -m "not slow and not fault" --cov --cov-report=term:skip-covered

lint: $(VENV)/.installed-test  ## ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

format: $(VENV)/.installed-test  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test  ## each benchmark beside a plain alternative
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

docs: export IMAGINE_DB := examples/paper.db
docs: $(VENV)/.installed-test  ## write what commands say of the store that comes with the project into the pages
	$(BIN)/cog -r -I docs -p "from shown import *" README.md docs/*.md
	$(BIN)/imagine-results figure key channels enc_layers step_layers dec_layers lr batch --by ae --metric metric_plain \
		--sweep contrasts --where 'preset=small and gol=3 and model_t=3 and rnn=true' -o docs/metric-keys.png --force
	$(BIN)/imagine-results report -o docs/report.html --force

reproduce-check: $(VENV)/.installed  ## train pairs for each sign of the paper (hours; it continues where it stopped)
	-$(BIN)/imagine-sweep launch sweeps/signs.yaml
	-$(BIN)/imagine-sweep top-up sweeps/signs.yaml -y
	$(BIN)/imagine-results compare signs

slurm-install: $(VENV)/.installed  ## the Debian packages of a real Slurm (root, or sudo without a password)
	$(BIN)/python -m slurm.testbed install

browser-install:  ## Debian's chromium, for the tests of the report (root, or sudo without a password)
	command -v chromium || $$(test $$(id -u) -eq 0 || echo sudo -n) apt-get install -y --no-install-recommends chromium

chess-install: $(VENV)/.installed  ## the chess experiments: a package, and Debian's Stockfish (root, or sudo without a password)
	$(PIP) install --quiet -c constraints.txt -e ".[chess]"
	test -x /usr/games/stockfish || $$(test $$(id -u) -eq 0 || echo sudo -n) apt-get install -y --no-install-recommends stockfish

# The demo has its own testbed and its own store, so it changes no others.
slurm-demo: $(VENV)/.installed  ## a small sweep on a real Slurm, which is started before it and removed after it
	@export SLURM_TESTBED=/tmp/slurm-demo-$$(id -u); export IMAGINE_DB=$$SLURM_TESTBED/demo.db; \
	trap '$(BIN)/python -m slurm.testbed wipe' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m slurm.testbed up && \
	eval "$$($(BIN)/python -m slurm.testbed env)" && \
	sinfo --Node --long && \
	$(BIN)/imagine-sweep launch sweeps/quick.yaml runs=1 launcher=slurm launcher.array_parallelism=$$(nproc) && \
	$(BIN)/imagine-sweep watch sweeps/quick.yaml runs=1 --every 3 && \
	$(BIN)/imagine-results table --group gol,model_t

# The constraints give every machine the same versions, including torch's.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e ".[test]"
	touch $@
