# From a fresh clone: `make demo` makes a trajectory, `make test` passes the tests.
# Each sets up its own .venv first, once; another Python: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Another environment's paths must not leak into ours.
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: demo test test-slow clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/egno-md run --example ethanol $(if $(wildcard out/trajectory.zarr),--resume)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

# The long ones, minutes: the demo's promises, more kills and bit flips, the wheel's content.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# The stamps are newer than what they were made from, so a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e ".[test]"
	touch $(VENV)/.installed $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	"Python 3.11 or newer is needed, this is %d.%d; try: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build dist egno_md.egg-info out
