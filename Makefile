# make demo | make test | make test-fast | make nightly | make docs | make faults | make soak | make gpu | make lint | make index | make format | make audit
PYTHON ?= python3.11
VENV ?= .venv
OUT ?= $(or $(TMPDIR),/tmp)/raydc-demo
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
export RAY_USAGE_STATS_ENABLED = 0
export OMP_NUM_THREADS = 1
# packages are installed without bytecode: each of many processes would compile all that it imports
export PYTHONDONTWRITEBYTECODE =

$(VENV)/installed: pyproject.toml .ci/requirements.txt .ci/torch.txt
	command -v $(PYTHON) >/dev/null && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(INSTALL) --no-deps --require-hashes -r .ci/requirements.txt
	$(INSTALL) -r .ci/torch.txt
	$(INSTALL) --no-deps -e .
	$(BIN)/pip check --disable-pip-version-check
	touch $@

.PHONY: demo test test-fast nightly docs faults soak gpu lint index format audit
demo: $(VENV)/installed
	$(BIN)/python jobs/demo.py --out $(OUT)

# a test alone uses one processor, and often waits
AT_ONCE = -n 2 --dist worksteal
NIGHTLY_OPTIONS ?=
test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" $(AT_ONCE)

# what `make test` leaves out: some hours; which tests take them stands at the end
nightly: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(AT_ONCE) -vv --durations=40 $(NIGHTLY_OPTIONS)

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow and not ray" $(AT_ONCE)

DOCS ?= $(or $(TMPDIR),/tmp)/raydc-docs
docs: $(VENV)/installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -E -b html docs $(DOCS)
	@echo $(DOCS)/index.html

FAULTS ?= $(or $(TMPDIR),/tmp)/raydc-faults
FAULT_OPTIONS ?=
faults: $(VENV)/installed
	$(BIN)/python -m benchmarks.faults --out $(FAULTS) $(FAULT_OPTIONS)

soak: $(VENV)/installed
	$(BIN)/python -m benchmarks.faults --soak --out $(FAULTS)

# on a machine with a GPU, which may have torch alone: what is missing comes from a folder of wheels
GPU ?= $(or $(TMPDIR),/tmp)/raydc-gpu
DEVICE ?= cuda
gpu:
	$(or $(wildcard $(BIN)/python),python3) -m benchmarks.gpu --device $(DEVICE) --out $(GPU)/$(DEVICE) $(if $(WHEELS),--wheels $(WHEELS))

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy raydc

# what lists and help say of the methods, without importing them
index: $(VENV)/installed
	$(BIN)/python -c "from raydc.methods import index; print(index.text(), end='')" > raydc/methods/index.json.new
	mv raydc/methods/index.json.new raydc/methods/index.json

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit: $(VENV)/installed
	$(INSTALL) pip-audit
	$(BIN)/pip-audit --disable-pip --no-deps -r .ci/requirements.txt -r .ci/torch.txt
