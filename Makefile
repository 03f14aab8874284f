# The only list of commands; .ci/run calls the same targets. Everything runs in .venv, which `setup` makes.

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= benchmarks/results
# Processes of the test suite; each needs about 1.5 GB.
JOBS ?= 2

.PHONY: help large-check docs release floors setup demo test lint type format golden bench fuzz soak cuda wheel gpu-check clean

setup: $(STAMP)

# No compiler is needed: every dependency comes as a wheel. The stamp makes a second `make setup` free.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11. Try: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "error: cannot make a virtual environment. On Debian: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev]'
	@echo "compiling the renderer for this machine"; $(BIN)/python -c "import vlm3d_gs.render.cpu.rasterize"
	@touch $(STAMP)

# What there is, from the comments above.
help:
	@grep -E '^[a-z-]+:' Makefile | cut -d: -f1 | sort | xargs echo "make"

demo: setup
	$(BIN)/vlm3d-gs generate "a red cube on top of a blue sphere" --out runs/demo --overwrite

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if test -x $(BIN)/hadolint; then echo hadolint deploy/Dockerfile; $(BIN)/hadolint deploy/Dockerfile; \
	  else echo "no hadolint for this system: deploy/Dockerfile is not checked"; fi

type: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Rewrites what tests/contract compares with. Look at the difference before you commit it.
golden: setup
	$(BIN)/python tests/contract/test_cli_surface.py > tests/golden/cli_options.txt

# All of them at their defaults: hours, and full-size models; a single script has --help. Writes into benchmarks/results; then run
# benchmarks/tables.py. Torch's idle threads sleep as early as under the command line, which sets the same.
bench: setup
	@set -e; export GOMP_SPINCOUNT=$${GOMP_SPINCOUNT:-10000}; for script in benchmarks/bench_*.py; do echo "$$script"; $(BIN)/python "$$script"; done

# Damaged files into every reader, 200,000 a format and at most FUZZ_S seconds each; findings go to fuzz-findings/.
FUZZ_S ?= 3600
fuzz: setup
	$(BIN)/python tests/fuzz.py --count 200000 --seconds $(FUZZ_S)

# Breaks short runs at random and checks that nothing is lost; docs/RELIABILITY.md.
SOAK_MINUTES ?= 120
soak: setup
	$(BIN)/python benchmarks/soak.py --minutes $(SOAK_MINUTES)

# The CUDA kernels, in a quarter of a minute; without them the references in torch are used. `make setup` fetches the compiler.
cuda:
	@$(MAKE) --no-print-directory -C cuda

# The package with its kernels, in dist/.
wheel: setup cuda
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

# Needs a CUDA device; exit code 2 says that there is none. See benchmarks/gpu_check.py.
gpu-check: setup
	$(BIN)/python benchmarks/gpu_check.py --out "$(OUT)"

# On your GPU, with the published weights (downloaded): one file to send in an issue. See benchmarks/large_check.py.
large-check: setup
	$(BIN)/python benchmarks/large_check.py --out large-check

# The site, in build/site, strictly: a dead link ends it. Installs the extra `docs` if mkdocs is not there.
docs: setup
	@$(BIN)/python -c 'import material' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -e '.[docs]'
	$(BIN)/python docs/make_site.py build/site-source
	$(BIN)/python -m mkdocs build --strict --quiet

# Wheel and sdist in dist/, checked, and a splat made with the wheel in an empty environment.
release:
	.ci/release

# A splat, a mesh, a page and a resumed run with the lowest and the highest versions that pyproject.toml allows.
floors:
	.ci/floors

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
