"""Labelled frames: units are never guessed, bad data is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from egno_md.data.frame_files import load_frames, save_frames
from egno_md.data.frames import LabelledFrames
from egno_md.units import KCAL_PER_MOL


def arrays(n=4):
    rng = np.random.default_rng(0)
    return {
        "z": np.array([8, 1, 1], dtype=np.uint8),
        "R": rng.normal(size=(n, 3, 3)),
        "E": rng.normal(size=n),
        "F": rng.normal(size=(n, 3, 3)),
    }


def test_unit_of_md17_keys_must_be_given(tmp_path):
    fields = arrays()
    np.savez(tmp_path / "a.npz", **fields)
    with pytest.raises(ValueError, match=r"a\.npz: its energy unit is not known.*kcal/mol"):
        load_frames(tmp_path / "a.npz")
    kcal = load_frames(tmp_path / "a.npz", "kcal/mol")
    ev = load_frames(tmp_path / "a.npz", "eV")
    np.testing.assert_allclose(kcal.energies, fields["E"] * KCAL_PER_MOL, rtol=1e-14)
    np.testing.assert_allclose(kcal.dense().forces, fields["F"] * KCAL_PER_MOL, rtol=1e-14)
    np.testing.assert_array_equal(ev.energies, fields["E"])
    np.testing.assert_array_equal(kcal.dense().positions, fields["R"])
    assert kcal.elements == [1, 8]


def test_unit_in_the_file_is_used_and_must_not_be_contradicted(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(), e_unit=np.array("kcal/mol"))
    frames = load_frames(tmp_path / "a.npz")
    np.testing.assert_allclose(frames.energies, arrays()["E"] * KCAL_PER_MOL, rtol=1e-14)
    with pytest.raises(ValueError, match="given as eV but the file says kcal/mol"):
        load_frames(tmp_path / "a.npz", "eV")
    with pytest.raises(ValueError, match="'Hartree' is not known"):
        load_frames(tmp_path / "a.npz", "Hartree")


def test_lengths_other_than_angstrom_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(), r_unit=np.array("Bohr"))
    with pytest.raises(ValueError, match="'Bohr'"):
        load_frames(tmp_path / "a.npz", "eV")


def test_bad_numbers_are_named(tmp_path):
    fields = arrays()
    fields["F"][2, 1, 0] = np.nan
    np.savez(tmp_path / "a.npz", **fields)
    with pytest.raises(ValueError, match=r"a\.npz: forces of atom 1 in frame 2 are not finite"):
        load_frames(tmp_path / "a.npz", "eV")
    fields = arrays()
    fields["E"][3] = np.inf
    np.savez(tmp_path / "b.npz", **fields)
    with pytest.raises(ValueError, match=r"b\.npz: energies of frame 3"):
        load_frames(tmp_path / "b.npz", "eV")
    np.savez(tmp_path / "c.npz", **(arrays() | {"R": np.zeros((4, 2, 3))}))
    with pytest.raises(ValueError, match=r"c\.npz: positions must have shape \(4, 3, 3\)"):
        load_frames(tmp_path / "c.npz", "eV")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: not a readable npz"):
        load_frames(tmp_path / "a.npz", "eV")


def test_pickled_arrays_are_never_opened(tmp_path):
    np.savez(tmp_path / "a.npz", **(arrays() | {"R": np.array([{}, {}], dtype=object)}))
    with pytest.raises(ValueError, match=r"a\.npz"):
        load_frames(tmp_path / "a.npz", "eV")


def test_missing_file_and_missing_fields(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        load_frames(tmp_path / "none.npz")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="has fields x; needed are"):
        load_frames(tmp_path / "a.npz", "eV")


def test_extxyz_of_two_molecules(tmp_path):
    images = [Atoms("OH2", positions=np.eye(3)), Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]])]
    for k, atoms in enumerate(images):
        forces = np.full((len(atoms), 3), k + 0.5)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - k, forces=forces)
    write(tmp_path / "a.extxyz", images)
    frames = load_frames(tmp_path / "a.extxyz")
    assert frames.ptr.tolist() == [0, 3, 5]
    assert frames.energies.tolist() == [-1.0, -2.0]
    assert frames.forces[3:].unique().tolist() == [1.5]
    assert not frames.one_molecule
    with pytest.raises(ValueError, match="not all of one molecule"):
        frames.dense()
    with pytest.raises(ValueError, match="eV, not in kcal/mol"):
        load_frames(tmp_path / "a.extxyz", "kcal/mol")
    swapped = frames.select([1, 0])
    assert swapped.numbers.tolist() == [6, 8, 8, 1, 1]
    assert swapped.ptr.tolist() == [0, 2, 5]


def test_extxyz_without_labels_is_refused(tmp_path):
    write(tmp_path / "a.extxyz", Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]))
    with pytest.raises(ValueError, match="frame 0 has no energy or no forces"):
        load_frames(tmp_path / "a.extxyz")


def test_own_file_round_trips_with_hash(tmp_path):
    fields = {k: torch.from_numpy(v) for k, v in arrays().items()}
    frames = LabelledFrames.stack(
        fields["z"], fields["R"], fields["E"], fields["F"], trajectory=torch.arange(4)
    )
    save_frames(tmp_path / "a.npz", frames)
    back = load_frames(tmp_path / "a.npz")
    assert back.sha256() == frames.sha256()
    assert back.trajectory.tolist() == [0, 1, 2, 3]
    assert back.select([0, 1, 2]).sha256() != frames.sha256()
