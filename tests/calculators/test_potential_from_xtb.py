"""GFN-xTB as a potential: the same state, the same bits; and clear words where it cannot be."""

import pytest
import torch

from egno_md import XTBPotential
from egno_md.calculators import potential_from_xtb
from egno_md.calculators.potential_from_xtb import has_tblite
from egno_md.cli import main
from egno_md.state import Molecule, State
from egno_md.testing.potential_checks import force_error
from egno_md.training.sources import open_potential

needs_tblite = pytest.mark.skipif(
    not has_tblite(), reason="tblite is not installed: pip install 'egno-md[qm]'"
)


def water(n_replicas=2):
    place = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]
    x = torch.tensor(place, dtype=torch.float64).repeat(n_replicas, 1, 1)
    draw = torch.Generator().manual_seed(1)
    x = x + 0.03 * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    return State.at_rest(Molecule.from_numbers([8, 1, 1]), x)


@needs_tblite
def test_what_was_asked_before_does_not_matter():
    potential, state = XTBPotential("gfn2"), water(3)
    whole = potential.evaluate(state)
    for r in (2, 0, 1, 0):
        alone = potential.evaluate(state.replica(r))
        assert torch.equal(alone.energy[0], whole.energy[r])
        assert torch.equal(alone.forces[0], whole.forces[r])
    assert torch.equal(potential.energies(state), whole.energy)
    # A water molecule in GFN2-xTB, -5.07 hartree.
    assert float(whole.energy[0]) == pytest.approx(-5.07 * 27.2114, abs=0.3)


@needs_tblite
def test_forces_are_slopes_and_methods_differ():
    assert force_error(XTBPotential(), water(1), step_A=1e-2) < 1e-3
    energies = [float(open_potential(f"xtb:{m}").energies(water(1))) for m in ("gfn1", "gfn2")]
    assert abs(energies[0] - energies[1]) > 1.0


@needs_tblite
def test_a_run_by_it_is_resumed_bit_for_bit(tmp_path):
    from egno_md.trajectories.store_reader import TrajectoryReader

    given = ["run", "--example", "ethanol", "--mode", "classical", "--guard", "xtb:gfn2"]
    given += ["--n-replicas", "1", "--equilibration-ps", "0.002", "--no-report", "--export"]
    for name, first in (("whole", None), ("cut", "0.02")):
        argv = [*given, "--out", str(tmp_path / name)]
        if first:
            assert main([*argv, "--length-ps", first]) == 0
        assert main([*argv, "--length-ps", "0.04", "--resume"]) == 0
    frames = [
        TrajectoryReader(tmp_path / name / "trajectory.zarr").array("positions").tobytes()
        for name in ("whole", "cut")
    ]
    assert frames[0] == frames[1]


def test_it_says_what_is_missing(monkeypatch):
    with pytest.raises(ValueError, match="xtb:gfn9 is not known; there are xtb:gfn1, xtb:gfn2"):
        open_potential("xtb:gfn9")
    monkeypatch.setattr(potential_from_xtb, "has_tblite", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'egno-md\[qm\]'"):
        XTBPotential()
