# From a fresh clone: `make demo` makes a trajectory, `make test` passes the tests.
# Each sets up its own .venv first, once; another Python: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_VENV ?= .venv-openmm-torch
TORCH_BIN := $(TORCH_VENV)/bin
MACE_VENV ?= .venv-mace
DATA ?= $(EGNO_MD_DATA)
TORCH_TESTS := $(addprefix tests/calculators/test_,\
	torch_force.py openmm_torch_backend.py openmm_force.py torchscript_energy.py)

# Another environment's paths must not leak into ours.
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: demo test test-slow test-openmm-torch benchmark-mace clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/egno-md run --example ethanol $(if $(wildcard out/trajectory.zarr),--resume)

# Two processes; a file's tests share what they make, so they stay together.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The long ones, minutes: the demo's promises, more kills and bit flips, the wheel's content.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# The forces of openmm-torch, in an environment of their own: its wheel fits neither the torch nor
# the OpenMM of the other. A download of 4 GB, no GPU is needed.
test-openmm-torch: $(TORCH_VENV)/.installed
	$(TORCH_BIN)/egno-md doctor
	$(TORCH_BIN)/python -m pytest -m "not slow and not gpu" $(TORCH_TESTS)

# MACE needs another e3nn, so an environment of its own; DATA=FOLDER holds md17/rmd17_ethanol_*.npz.
benchmark-mace: $(VENV)/.installed $(MACE_VENV)/.installed
	$(BIN)/egno-md benchmark mace --data $(DATA) --mace-python $(MACE_VENV)/bin/python --seeds 1

# The stamps are newer than what they were made from, so a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e ".[test]"
	touch $(VENV)/.installed $@

$(TORCH_VENV)/.installed: pyproject.toml constraints-openmm-torch.txt $(TORCH_BIN)/pip
	$(TORCH_BIN)/pip install -c constraints-openmm-torch.txt -e ".[openmm-torch]" pytest
	touch $@

$(MACE_VENV)/.installed: constraints-mace.txt $(MACE_VENV)/bin/pip
	$(MACE_VENV)/bin/pip install -r constraints-mace.txt
	touch $@

$(BIN)/pip $(TORCH_BIN)/pip $(MACE_VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	"Python 3.11 or newer is needed, this is %d.%d; try: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(@D:%/bin=%)

clean:
	rm -rf build dist egno_md.egg-info out
