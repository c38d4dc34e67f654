import pytest

from egno_md.state import Molecule
from egno_md.trajectories.classical_baselines import classical_baselines


def test_costs_are_evaluations_times_the_cost_of_one():
    rivals = classical_baselines(0.02, 0.01, Molecule.from_numbers([6, 1]))
    assert [rival.timestep_fs for rival in rivals] == [0.5, 1.0, 4.0]
    assert [rival.evaluations_per_ps for rival in rivals] == [2000.0, 1000.0, 250.0]
    assert [rival.cpu_s_per_ps for rival in rivals] == pytest.approx([20.0, 10.0, 2.5])
    assert [rival.wall_s_per_ps for rival in rivals] == pytest.approx([40.0, 20.0, 5.0])
    assert "fixed bonds" in rivals[-1].name
    assert not any(rival.to_json()["measured"] for rival in rivals)


def test_without_hydrogens_there_is_nothing_to_make_heavier():
    rivals = classical_baselines(0.02, 0.01, Molecule.from_numbers([29, 29]))
    assert [rival.timestep_fs for rival in rivals] == [0.5, 1.0]
