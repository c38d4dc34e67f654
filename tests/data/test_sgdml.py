from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.data.sgdml import SGDMLPotential, read_sgdml
from egno_md.roles import Potential
from egno_md.state import Molecule, State
from egno_md.units import KCAL_PER_MOL

ETHANOL = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1])


@pytest.fixture(scope="session")
def md17() -> Path:
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    return Path(folder) / "md17"


@pytest.fixture
def toy_file(tmp_path):
    """A small made-up model of water in the present layout, its fields and its path."""
    rng = np.random.default_rng(5)
    # Pairs (1,0), (2,0), (2,1) of O H H; swapping the hydrogens swaps the first two.
    fields = {
        "type": "m",
        "z": np.array([8, 1, 1], dtype=np.uint8),
        "R_desc": 1.0 / rng.uniform(0.9, 1.7, (3, 4)),
        "R_d_desc_alpha": rng.normal(size=(4, 3)),
        "perms": np.array([[0, 1, 2], [0, 2, 1]]),
        "sig": 3,
        "std": 1.7,
        "c": -40.0,
        "theory": np.array("unknown"),
    }
    path = tmp_path / "toy.npz"
    np.savez(path, **fields)
    return fields, path


def water(positions) -> State:
    x = torch.as_tensor(positions, dtype=torch.float64)
    return State.at_rest(Molecule.from_numbers([8, 1, 1]), x)


def random_water(n: int) -> State:
    rng = np.random.default_rng(1)
    shape = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    return water(shape + 0.1 * rng.normal(size=(n, 3, 3)))


def written_out(fields, x: np.ndarray) -> float:
    """The model of one conformation, term by term, in kcal/mol."""
    q = math.sqrt(5.0) / fields["sig"]
    pairs = [(1, 0), (2, 0), (2, 1)]
    descriptor = np.array([1 / np.linalg.norm(x[i] - x[j]) for i, j in pairs])
    total = 0.0
    for swap in ([0, 1, 2], [1, 0, 2]):
        for a, b in zip(fields["R_desc"].T, fields["R_d_desc_alpha"], strict=True):
            step = q * (descriptor - a[swap])
            u = np.linalg.norm(step)
            total += q / 3 * (1 + u) * math.exp(-u) * step @ b[swap]
    return fields["std"] * total + fields["c"]


def test_energy_is_the_kernel_sum_of_the_paper(toy_file) -> None:
    fields, path = toy_file
    state = random_water(5)
    potential = SGDMLPotential.from_npz(path)
    assert isinstance(potential, Potential)
    expected = [written_out(fields, x) * KCAL_PER_MOL for x in state.positions.numpy()]
    np.testing.assert_allclose(potential.evaluate(state).energy, expected, rtol=1e-12)
    np.testing.assert_allclose(potential.energies(state), expected, rtol=1e-12)


def test_the_2018_layout_gives_the_same_numbers(toy_file, tmp_path) -> None:
    fields, path = toy_file
    old = {
        "z": fields["z"],
        "Rt_desc": fields["R_desc"],
        "Rt_d_desc_alpha": fields["R_d_desc_alpha"][..., None] * fields["std"],
        "perms": (fields["perms"] + 1).astype(np.uint8),
        "sig": fields["sig"],
        "c": fields["c"],
    }
    np.savez(tmp_path / "old.npz", **old)
    state = random_water(3)
    there = SGDMLPotential.from_npz(path).evaluate(state)
    here = SGDMLPotential.from_npz(tmp_path / "old.npz").evaluate(state)
    torch.testing.assert_close(here.energy, there.energy, rtol=0, atol=1e-13)
    torch.testing.assert_close(here.forces, there.forces, rtol=0, atol=1e-13)


def test_forces_are_minus_the_energy_gradient(toy_file) -> None:
    potential = SGDMLPotential.from_npz(toy_file[1])
    state = random_water(2)
    step = 1e-4
    moved = torch.zeros_like(state.positions)
    for i in range(3):
        for axis in range(3):
            shift = torch.zeros(3, 3, dtype=torch.float64)
            shift[i, axis] = step
            up = potential.energies(state.with_(positions=state.positions + shift))
            down = potential.energies(state.with_(positions=state.positions - shift))
            moved[:, i, axis] = -(up - down) / (2 * step)
    torch.testing.assert_close(potential.evaluate(state).forces, moved, rtol=0, atol=1e-7)


def test_rotation_turns_forces_and_keeps_energies(toy_file) -> None:
    potential = SGDMLPotential.from_npz(toy_file[1])
    state = random_water(4)
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    before = potential.evaluate(state)
    after = potential.evaluate(state.with_(positions=state.positions @ turn.T + 3.0))
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.forces, before.forces @ turn.T, rtol=0, atol=1e-11)


def test_equivalent_atoms_may_be_exchanged(toy_file) -> None:
    potential = SGDMLPotential.from_npz(toy_file[1])
    state = random_water(4)
    swap = [0, 2, 1]
    before = potential.evaluate(state)
    after = potential.evaluate(state.with_(positions=state.positions[:, swap]))
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.forces, before.forces[:, swap], rtol=0, atol=1e-12)


def test_replicas_do_not_see_each_other_whatever_the_blocks(toy_file, monkeypatch) -> None:
    state = random_water(7)
    together = SGDMLPotential.from_npz(toy_file[1]).evaluate(state)
    monkeypatch.setattr("egno_md.data.sgdml._BLOCK_ENTRIES", 1)
    alone = SGDMLPotential.from_npz(toy_file[1]).evaluate(state)
    torch.testing.assert_close(alone.energy, together.energy, rtol=0, atol=1e-13)
    torch.testing.assert_close(alone.forces, together.forces, rtol=0, atol=1e-13)


def test_float32_positions_get_float32_forces(toy_file) -> None:
    result = SGDMLPotential.from_npz(toy_file[1]).evaluate(
        State.at_rest(Molecule.from_numbers([8, 1, 1]), random_water(2).positions.float())
    )
    assert result.forces.dtype == torch.float32
    assert result.energy.dtype == torch.float64


def test_another_atom_order_is_refused_by_name(toy_file) -> None:
    potential = SGDMLPotential.from_npz(toy_file[1])
    x = random_water(1).positions
    with pytest.raises(ValueError, match=r"atom 0 is H, but .* expects O there.* O H H"):
        potential.evaluate(State.at_rest(Molecule.from_numbers([1, 8, 1]), x))
    with pytest.raises(ValueError, match="for 3 atoms, the state has 2"):
        potential.energies(State.at_rest(Molecule.from_numbers([8, 1]), x[:, :2]))
    box = Molecule.from_numbers([8, 1, 1], pbc=(True, True, True))
    with pytest.raises(ValueError, match="isolated molecules"):
        potential.energies(State.at_rest(box, x, cell=9 * torch.eye(3)))


def test_coinciding_atoms_are_named(toy_file) -> None:
    potential = SGDMLPotential.from_npz(toy_file[1])
    x = random_water(2).positions.clone()
    x[1, 2] = x[1, 0]
    with pytest.raises(ValueError, match=r"replica 1 .* atoms 0 and 2 are 0 Å apart"):
        potential.evaluate(water(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R_desc": None}, "no field 'R_desc'"),
        ({"lattice": np.eye(3)}, "a periodic lattice"),
        ({"alphas_E": np.ones(4)}, "energy constraints"),
        ({"sig": -1}, "kernel width sig is -1"),
        ({"e_unit": "Hartree"}, "energy unit is 'Hartree'"),
        ({"r_unit": "bohr"}, "length unit is 'bohr'"),
        ({"perms": np.array([[0, 1, 1]])}, "each of the 3 atoms once"),
        ({"perms": np.array([0, 1])}, "cannot be used"),
        ({"R_d_desc_alpha": np.ones((4, 2))}, "must be the same"),
        ({"z": np.array([8, 1])}, "cannot be used"),
        ({"R_desc": np.full((3, 4), np.nan)}, "not finite"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(toy_file, tmp_path, change, message) -> None:
    fields, _ = toy_file
    changed = {k: v for k, v in (fields | change).items() if v is not None}
    np.savez(tmp_path / "wrong.npz", **changed)
    with pytest.raises(ValueError, match=message) as caught:
        read_sgdml(tmp_path / "wrong.npz")
    assert "wrong.npz" in str(caught.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text.npz is not an sGDML .npz file"):
        read_sgdml(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="holds one array"):
        read_sgdml(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError):
        read_sgdml(tmp_path / "absent.npz")


def test_object_fields_are_not_unpickled(toy_file, tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("an object field was unpickled",))

    fields, _ = toy_file
    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    np.savez(tmp_path / "trap.npz", **fields, idxs=trap)
    SGDMLPotential.from_npz(tmp_path / "trap.npz")


def test_md17_ethanol_is_reproduced_as_published(md17) -> None:
    with np.load(md17 / "md17_ethanol_2000_noncontiguous.npz") as frames:
        x, energy, force = frames["R"], frames["E"].ravel(), frames["F"]
    potential = SGDMLPotential.from_npz(md17 / "sgdml_model_ethanol.npz")
    state = State.at_rest(Molecule.from_numbers(ETHANOL), torch.from_numpy(x))
    result = potential.evaluate(state)
    energy_mae = np.abs(result.energy.numpy() / KCAL_PER_MOL - energy).mean()
    force_mae = np.abs(result.forces.numpy() / KCAL_PER_MOL - force).mean()
    assert energy_mae == pytest.approx(0.074, abs=0.0005)
    assert force_mae == pytest.approx(0.344, abs=0.0005)


def test_paracetamol_fits_its_own_training_data(md17) -> None:
    with np.load(md17 / "paracetamol_pbe_ts_train1000.npz") as frames:
        z, x, force = frames["z"], frames["R"][:100], frames["F"][:100]
    potential = SGDMLPotential.from_npz(md17 / "sgdml_model_paracetamol.npz")
    molecule = Molecule.from_numbers(z.astype(int).tolist())
    forces = potential.evaluate(State.at_rest(molecule, torch.from_numpy(x))).forces
    assert np.abs(forces.numpy() / KCAL_PER_MOL - force).mean() < 0.0015


@pytest.mark.parametrize("name", ["ethanol", "malonaldehyde"])
@pytest.mark.filterwarnings("ignore")
def test_the_sgdml_package_agrees(md17, name) -> None:
    torchtools = pytest.importorskip("sgdml.torchtools")
    # The package makes every later logger of the process speak; torch's would do so at exit.
    logging.setLoggerClass(logging.Logger)
    path = md17 / f"sgdml_model_{name}.npz"
    with np.load(path) as file:
        model = {
            "R_desc": file["Rt_desc"],
            "R_d_desc_alpha": file["Rt_d_desc_alpha"][..., 0],
            "perms": file["perms"].astype(int) - 1,
            "tril_perms_lin": file["tril_perms_lin"],
            "sig": float(file["sig"]),
            "c": float(file["c"]),
            "std": 1.0,
            "z": file["z"],
        }
    # Training geometries of a model can be had from its inverse distances; jitter is enough.
    rng = np.random.default_rng(3)
    x = embed(model["R_desc"][:, :5].T) + 0.02 * rng.normal(size=(5, len(model["z"]), 3))
    energy, forces = torchtools.GDMLTorchPredict(model)(torch.from_numpy(x))
    ours = SGDMLPotential.from_npz(path).evaluate(
        State.at_rest(Molecule.from_numbers(model["z"].astype(int).tolist()), torch.from_numpy(x))
    )
    np.testing.assert_allclose(ours.forces / KCAL_PER_MOL, forces.detach(), atol=1e-4)
    np.testing.assert_allclose(ours.energy / KCAL_PER_MOL, energy.detach(), atol=1e-4)


def embed(descriptors: np.ndarray) -> np.ndarray:
    """Positions `(n, n_atoms, 3)` with the given inverse distances, by classical scaling."""
    n = int((1 + math.sqrt(1 + 8 * descriptors.shape[1])) / 2)
    row, column = np.tril_indices(n, -1)
    found = []
    for inverse in descriptors:
        squares = np.zeros((n, n))
        squares[row, column] = squares[column, row] = inverse**-2.0
        centre = np.eye(n) - 1.0 / n
        values, vectors = np.linalg.eigh(-0.5 * centre @ squares @ centre)
        found.append(vectors[:, -3:] * np.sqrt(values[-3:]))
    return np.array(found)
