"""The notebooks run, in a folder of their own and shortened."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))
# What each says when it has come to its point.
SAYS = {
    "01_first_trajectory": "of the frames were made by the network",
    "ase_engine": "times the processor time of SegmentDynamics with its guard",
    "ml_mm": "MTS, network every 2 fs: ",
    "openmm_engine": "the same after a checkpoint: True",
    "so2_convolution": "largest relative difference of the two results",
}
# What only some environments have.
NEEDS = {"ml_mm": "openmmml"}


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SAYS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_with_outputs_holds_the_same_code(path: Path) -> None:
    cells = json.loads(path.with_suffix(".ipynb").read_text())["cells"]
    shown = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    source = path.read_text().split("# %%\n", 1)[1]
    code = [line for line in source.splitlines() if line and not line.startswith("#")]
    assert [line for line in shown.splitlines() if line] == code
    assert any(c.get("outputs") for c in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    if NEEDS.get(path.stem) and find_spec(NEEDS[path.stem]) is None:
        pytest.skip(f"needs {NEEDS[path.stem]}: pip install '.[openmm-ml]'")
    result = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=os.environ
        | {"EGNO_MD_SMOKE": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(path.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert SAYS[path.stem] in result.stdout
    assert list(tmp_path.glob("*.png"))
