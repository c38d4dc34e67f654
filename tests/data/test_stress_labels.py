"""Stresses of files: units, signs and the order of components."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from egno_md.data.frame_files import load_frames, save_frames
from egno_md.data.frames import LabelledFrames
from egno_md.units import KCAL_PER_MOL

VIRIAL = np.array([[10.0, 20.0, 30.0, 4.0, 5.0, 6.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


def arrays(**more):
    cell = np.stack([4.0 * np.eye(3)] * 2)
    fields = {
        "ptr": np.array([0, 1, 2]),
        "numbers": np.array([3, 3]),
        "pos": np.zeros((2, 3)),
        "energy": np.array([-1.9, -1.8]),
        "forces": np.zeros((2, 3)),
        "cell": cell,
        "pbc": np.ones((2, 3), dtype=bool),
    }
    return fields | more


@pytest.mark.parametrize(
    ("number", "matrix"),
    [(3, [[10, 4, 6], [4, 20, 5], [6, 5, 30]]), (42, [[10, 4, 5], [4, 20, 6], [5, 6, 30]])],
)
def test_virial_stress_changes_sign_unit_and_shape(tmp_path, number, matrix):
    fields = arrays(virial_stress=VIRIAL, numbers=np.array([number, number]))
    np.savez(tmp_path / "a.npz", **fields)
    frames = load_frames(tmp_path / "a.npz", "eV")
    assert frames.stress is not None
    expected = -np.array(matrix, dtype=float) / 1602.1766
    np.testing.assert_allclose(frames.stress[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(frames.stress[1], np.zeros((3, 3)))


def test_own_field_is_in_the_energy_unit(tmp_path):
    stress = np.stack([np.diag([1.0, 2.0, 3.0])] * 2)
    np.savez(tmp_path / "a.npz", **arrays(stress=stress))
    found = load_frames(tmp_path / "a.npz", "kcal/mol").stress
    np.testing.assert_allclose(found, stress * KCAL_PER_MOL, rtol=1e-14)


def test_round_trip_selection_and_join(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(virial_stress=VIRIAL))
    frames = load_frames(tmp_path / "a.npz", "eV")
    save_frames(tmp_path / "b.npz", frames)
    again = load_frames(tmp_path / "b.npz")
    assert torch.equal(again.stress, frames.stress)
    assert again.sha256() == frames.sha256()
    assert torch.equal(frames.select([1, 0]).stress, frames.stress.flip(0))
    assert torch.equal(LabelledFrames.join([frames, again]).stress[2:], frames.stress)
    np.savez(tmp_path / "c.npz", **arrays())
    without = load_frames(tmp_path / "c.npz", "eV")
    assert without.sha256() != frames.sha256()
    assert LabelledFrames.join([frames, without]).stress is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"virial_stress": VIRIAL[:, :5]}, r"virial_stress must be real numbers.*\(2, 5\)"),
        ({"virial_stress": VIRIAL, "stress": np.zeros((2, 3, 3))}, "both stress and virial"),
        ({"virial_stress": VIRIAL, "numbers": np.array([32, 32])}, r"atomic numbers \[32\]"),
        ({"virial_stress": VIRIAL, "numbers": np.array([3, 14])}, r"atomic numbers \[3, 14\]"),
        ({"virial_stress": VIRIAL * [[1], [np.nan]]}, "stress of frame 1 is not finite"),
        ({"stress": np.tile(np.triu(np.ones((3, 3))), (2, 1, 1))}, "frame 0 is not symmetric"),
        ({"virial_stress": VIRIAL, "cell": np.zeros((2, 3, 3))}, "needs a cell of three vectors"),
    ],
)
def test_bad_stresses_are_named(tmp_path, more, message):
    np.savez(tmp_path / "a.npz", **arrays(**more))
    with pytest.raises(ValueError, match=message):
        load_frames(tmp_path / "a.npz", "eV")


def test_stress_without_a_cell_is_refused(tmp_path):
    fields = arrays(virial_stress=VIRIAL)
    del fields["cell"], fields["pbc"]
    np.savez(tmp_path / "a.npz", **fields)
    with pytest.raises(ValueError, match="stresses need a cell"):
        load_frames(tmp_path / "a.npz", "eV")


def test_a_cell_alone_means_periodic_in_one_molecule_files_too(tmp_path):
    fields = {"z": np.array([2]), "R": np.zeros((2, 1, 3)), "E": np.zeros(2)}
    cell = np.stack([3.0 * np.eye(3, dtype=np.float32)] * 2)
    np.savez(tmp_path / "a.npz", **fields, F=np.zeros((2, 1, 3)), cell=cell)
    frames = load_frames(tmp_path / "a.npz", "eV")
    assert frames.cell is not None
    assert torch.equal(frames.cell, torch.from_numpy(cell).double())
    assert frames.pbc is not None
    assert bool(frames.pbc.all())


def crystal(stress):
    atoms = Atoms("Li", cell=[3.0, 3.0, 3.0], pbc=True)
    labels = {"energy": -1.9, "forces": np.zeros((1, 3))}
    atoms.calc = SinglePointCalculator(atoms, **labels, **stress)
    return atoms


def test_extxyz_keeps_ases_stress(tmp_path):
    voigt = np.array([1.0, 2.0, 3.0, 0.4, 0.5, 0.6])
    write(tmp_path / "a.extxyz", [crystal({"stress": voigt}), crystal({"stress": 2 * voigt})])
    frames = load_frames(tmp_path / "a.extxyz")
    expected = torch.tensor([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]]).double()
    torch.testing.assert_close(frames.stress, torch.stack([expected, 2 * expected]))
    write(tmp_path / "b.extxyz", [crystal({"stress": voigt}), crystal({})])
    assert load_frames(tmp_path / "b.extxyz").stress is None


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("Li_training", 2),
        ("Si_training", 9),
        ("Si_test", 3),
        ("Mo_training", 9),
        ("Mo_test", 2),
        ("Cu_test", 4),
        ("Ni_test", 3),
    ],
)
def test_order_of_mlearns_components_is_that_of_its_sheared_cells(name, at_least):
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("EGNO_MD_DATA is not set; it names the folder with bulk/mlearn_*.npz")
    file = Path(folder) / "bulk" / f"mlearn_{name}.npz"
    frames = load_frames(file, "eV")
    with np.load(file, allow_pickle=False) as archive:
        elastic = archive["group"] == "Elastic"
    sheared = 0
    for k in elastic.nonzero()[0]:
        directions = frames.cell[k] / frames.cell[k].norm(dim=-1, keepdim=True)
        cosines = directions @ directions.T
        cosines = cosines - cosines.diagonal().diag()
        if float(cosines.abs().max()) < 0.01:
            continue
        stress = frames.stress[k] - frames.stress[k].diagonal().diag()
        # The strained plane answers, and no other: Hooke's law with a positive constant.
        a, b = (int(i) for i in (cosines.abs() == cosines.abs().max()).nonzero()[0])
        assert float(stress[a, b] * cosines[a, b]) > 0.0
        mine = float(stress[a, b].abs())
        stress[a, b] = stress[b, a] = 0.0
        assert float(stress.abs().max()) < 0.05 * mine
        sheared += 1
    assert sheared >= at_least
