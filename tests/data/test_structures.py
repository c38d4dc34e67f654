"""Structure files: what is read, and what is said of files that are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule

from egno_md.data.structures import read_structure
from egno_md.state import temperature_K

ETHANOL = molecule("CH3CH2OH")

PDB = """\
REMARK   1 made by hand
CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1
ATOM      1  OH2 HOH A   1       0.000   0.000   0.117  1.00  0.00{o}
ATOM      2  H1  HOH A   1       0.000   0.757  {z}  1.00  0.00{h}
ATOM      3  H2  HOH A   1       0.000  -0.757  -0.471  1.00  0.00{h}
END
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.cif", "a@1.xyz", "a.gen"])
def test_formats_of_ase_give_atoms_and_bonds(name: str, tmp_path: Path) -> None:
    atoms = ETHANOL.copy()
    if name.endswith("cif"):
        atoms.center(vacuum=4.0)
    path = tmp_path / name
    ase.io.write(path, atoms, format={".cif": "cif"}.get(path.suffix, path.suffix[1:]))
    state = read_structure(path)
    assert state.positions.shape == (1, 9, 3)
    assert state.positions.dtype == torch.float64
    assert state.molecule.numbers.tolist() == ETHANOL.numbers.tolist()
    assert state.molecule.masses.numpy() == pytest.approx(ETHANOL.get_masses())
    assert len(state.molecule.bonds) == 8
    assert float(state.velocities.abs().max()) == 0.0
    distances = torch.pdist(state.positions[0])
    expected = torch.pdist(torch.as_tensor(ETHANOL.positions))
    torch.testing.assert_close(distances, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_momenta_become_velocities_in_A_per_fs(suffix: str, tmp_path: Path) -> None:
    atoms = ETHANOL.copy()
    atoms.set_momenta(np.random.default_rng(0).normal(0, 0.5, (9, 3)))
    path = tmp_path / f"a.{suffix}"
    ase.io.write(path, atoms)
    state = read_structure(path)
    expected = atoms.get_velocities() * units.fs
    assert state.velocities[0].numpy() == pytest.approx(expected, abs=1e-8)
    kelvin = float(temperature_K(state.molecule, state.velocities)[0])
    assert kelvin == pytest.approx(atoms.get_kinetic_energy() / (1.5 * 9 * units.kB), rel=1e-6)


def test_the_first_of_several_frames_is_read(tmp_path: Path) -> None:
    other = ETHANOL.copy()
    other.positions += 1.0
    path = tmp_path / "a.xyz"
    ase.io.write(path, [ETHANOL, other])
    assert read_structure(path).positions[0].numpy() == pytest.approx(ETHANOL.positions, abs=1e-6)


def test_a_crystal_keeps_its_cell_and_a_molecule_in_a_box_has_none(tmp_path: Path) -> None:
    copper, boxed = bulk("Cu", cubic=True), ETHANOL.copy()
    boxed.center(vacuum=5.0)
    ase.io.write(tmp_path / "cu.extxyz", copper)
    ase.io.write(tmp_path / "boxed.extxyz", boxed)
    state = read_structure(tmp_path / "cu.extxyz")
    assert state.molecule.pbc == (True, True, True)
    assert state.cell is not None
    assert state.cell[0].numpy() == pytest.approx(copper.cell.array)
    assert len(state.molecule.bonds) == 0  # metals have no bonds to judge
    assert read_structure(tmp_path / "boxed.extxyz").cell is None


def test_a_slab_without_a_third_vector_is_completed(tmp_path: Path) -> None:
    slab = fcc111("Cu", (2, 2, 2))
    slab.set_pbc((True, True, False))
    slab.cell[2] = 0.0
    slab.info.clear()
    ase.io.write(tmp_path / "slab.extxyz", slab)
    state = read_structure(tmp_path / "slab.extxyz")
    assert state.molecule.pbc == (True, True, False)
    assert state.cell is not None
    assert state.cell[0, 2].tolist() == pytest.approx([0, 0, 1])


@pytest.mark.parametrize(("o", "h"), [("           O", "           H"), ("", "")])
def test_pdb_with_and_without_elements(o: str, h: str, tmp_path: Path) -> None:
    state = read_structure(write(tmp_path, "w.pdb", PDB.format(o=o, h=h, z="-0.471")))
    assert state.molecule.numbers.tolist() == [8, 1, 1]
    assert state.molecule.bonds.tolist() == [[0, 1], [0, 2]]
    assert state.molecule.names == ("O", "H1", "H2")
    assert state.cell is None
    # Exactly the decimals of the file, in spite of single precision on the way.
    assert state.positions[0].tolist() == [[0, 0, 0.117], [0, 0.757, -0.471], [0, -0.757, -0.471]]


def test_pdb_with_a_cell_is_periodic(tmp_path: Path) -> None:
    text = PDB.format(o="", h="", z="-0.471").replace(
        "    1.000    1.000    1.000 ", "   10.000   11.000   12.000 "
    )
    state = read_structure(write(tmp_path, "w.pdb", text))
    assert state.molecule.pbc == (True, True, True)
    assert state.cell is not None
    assert state.cell[0].numpy() == pytest.approx(np.diag([10.0, 11.0, 12.0]), abs=1e-4)


def test_files_of_the_data_folder_are_read() -> None:
    folder = os.environ.get("EGNO_MD_DATA")
    if folder is None:
        pytest.skip("set EGNO_MD_DATA to the data folder to read its structures")
    for name, formula, n_bonds in (
        ("bio/ala2_native.pdb", "C6H12N2O2", 21),
        ("md17/geometries/ethanol.xyz", "C2H6O", 8),
        ("md17/geometries/aspirin.xyz", "C9H8O4", 21),
        ("md17/geometries/naphthalene.xyz", "C10H8", 19),
    ):
        state = read_structure(Path(folder) / name)
        assert Atoms(state.molecule.numbers.numpy()).get_chemical_formula() == formula
        assert len(state.molecule.bonds) == n_bonds


XYZ = "3\n{info}\nO 0 0 0\nH 0 0.757 0.587\n{last}\n"
CELL = 'Lattice="{} 0 0 0 {} 0 0 0 {}" pbc="{}"'
WRONG = {
    "nan": (XYZ, {"last": "H 0 nan 0.587"}, "position of atom 2 (replica 0, y) is nan"),
    "infinite": (XYZ, {"last": "H 0 0 -inf"}, "position of atom 2 (replica 0, z) is -inf"),
    "unknown element": (
        XYZ,
        {"last": "Qq 0 -0.757 0.587"},
        "atom 2 (line 5) has the unknown element 'Qq'",
    ),
    "dummy atom": (XYZ, {"last": "X 0 -0.757 0.587"}, "atom 2 has the unknown element 'X'"),
    "same place": (XYZ, {"last": "H 0 0.757 0.587"}, "atoms 1 (H) and 2 (H) are 0 Å apart"),
    "overlap": (XYZ, {"last": "H 0 0.757 0.387"}, "atoms 1 (H) and 2 (H) are 0.2 Å apart"),
    "overlap through a face": (
        XYZ,
        {"last": "H 9.9 0 0", "info": CELL.format(10, 10, 10, "T T T")},
        "atoms 0 (O) and 2 (H) are 0.1 Å apart",
    ),
    "too few atoms": (XYZ, {"last": ""}, "ASE cannot read it"),
    "a word for a number": (XYZ, {"last": "H 0 zero 0"}, "ASE cannot read it"),
    "no atoms": ("0\n\n", {}, "no atoms"),
    "empty": ("", {}, "is empty"),
    "something else": ("all work and no play\n" * 4, {}, "ASE cannot read it"),
    "zero cell": (XYZ, {"info": CELL.format(0, 0, 0, "T T T")}, "cell vector a is zero"),
    "flat cell": (XYZ, {"info": CELL.format(9, 9, 0, "T T T")}, "cell vector c is zero"),
    "dependent cell": (
        XYZ,
        {"info": 'Lattice="9 0 0 9 0 0 0 0 9" pbc="T T T"'},
        "span no volume",
    ),
    "cell with nan": (XYZ, {"info": CELL.format("nan", 9, 9, "T T T")}, "cell has a number"),
    "thin cell": (
        XYZ,
        {"info": CELL.format(0.01, 0.01, 0.01, "T T T")},
        "cell vector a is 0.01 Å long",
    ),
    "no mass": (
        XYZ.replace("0 0 0\n", "0 0 0 0\n").replace("0.587\n{", "0.587 1\n{"),
        {"info": "Properties=species:S:1:pos:R:3:masses:R:1", "last": "H 0 -1 0 1"},
        "atom 0 has mass 0.0 amu",
    ),
    "velocities with nan": (
        XYZ.replace("0 0 0\n", "0 0 0 nan 0 0\n").replace("0.587\n{", "0.587 0 0 0\n{"),
        {"info": "Properties=species:S:1:pos:R:3:momenta:R:3", "last": "H 0 -1 0 0 0 0"},
        "velocity of atom 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named_in_one_sentence(name: str, tmp_path: Path) -> None:
    text, changes, words = WRONG[name]
    fields = {"info": "", "last": "H 0 -0.757 0.587"} | changes
    path = write(tmp_path, "bad.xyz", text.format(**fields))
    with pytest.raises(ValueError, match=r"bad\.xyz") as caught:
        read_structure(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("z", "o", "words"),
    [
        ("   nan", "", "position of atom 1 (replica 0, z) is nan"),
        (" 0.117", "          Zz", "atom 0 (line 3) has the unknown element 'Zz'"),
        ("x0.117", "", "mdtraj cannot read it"),
    ],
)
def test_wrong_pdb_files_are_named(z: str, o: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, "bad.pdb", PDB.format(o=o, h="", z=z))
    with pytest.raises(ValueError, match=r"bad\.pdb") as caught:
        read_structure(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.xyz does not exist"):
        read_structure(tmp_path / "nothing.xyz")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_structure(tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.xyz"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match=r"noise\.xyz"):
        read_structure(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("charge", 1, r"total charge of 1;"),
        ("total_charge", -2.0, r"total charge of -2;"),
        ("spin", 3, r"spin multiplicity of 3;"),
        ("multiplicity", 2, r"spin multiplicity of 2;"),
    ],
)
def test_charge_and_spin_are_refused(key: str, value: float, message: str, tmp_path: Path) -> None:
    atoms = ETHANOL.copy()
    atoms.info[key] = value
    path = tmp_path / "a.extxyz"
    ase.io.write(path, atoms)
    with pytest.raises(ValueError, match=message):
        read_structure(path)
    atoms.info[key] = 0 if "charge" in key else 1
    ase.io.write(path, atoms)
    assert read_structure(path).molecule.n_atoms == 9


def test_charges_of_atoms_count_by_their_sum(tmp_path: Path) -> None:
    path = tmp_path / "a.traj"
    atoms = ETHANOL.copy()
    atoms.set_initial_charges([0.1, -0.1] * 4 + [0.0])
    ase.io.write(path, atoms)
    assert read_structure(path).molecule.n_atoms == 9
    atoms.set_initial_charges([1.0] + [0.0] * 8)
    ase.io.write(path, atoms)
    with pytest.raises(ValueError, match="total charge of 1"):
        read_structure(path)
    atoms.set_initial_charges([0.0] * 9)
    atoms.set_initial_magnetic_moments([0.0, -1.0] + [0.0] * 7)
    ase.io.write(path, atoms)
    with pytest.raises(ValueError, match="magnetic moments up to 1"):
        read_structure(path)
