"""A data folder with the benchmark's files at toy size: springs between atoms."""

import numpy as np

#: Corners of a box that the atoms sit near, Å.
CORNERS = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, 1.3], [1.1, 1.2, 1.3]])


def springs(positions, stiffness=5.0):
    """Energies and forces of springs to the corners, for `(n, atoms, 3)`."""
    moved = positions - CORNERS[: positions.shape[1]]
    return 0.5 * stiffness * (moved**2).sum((1, 2)), -stiffness * moved


def molecule(path, n, seed, n_atoms=3, unit="eV", **more):
    rng = np.random.default_rng(seed)
    positions = CORNERS[:n_atoms] + 0.1 * rng.normal(size=(n, n_atoms, 3))
    if "first" in more:
        first = more.pop("first")
        positions[: len(first)] = first
    energies, forces = springs(positions)
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.array([8, 1, 1, 6, 7])[:n_atoms]
    np.savez(path, z=numbers, R=positions, E=energies, F=forces, energy_unit=np.array(unit), **more)
    return positions


def crystals(path, n, seed, element=3):
    """Two-atom cells with energies, forces and virials."""
    rng = np.random.default_rng(seed)
    positions = np.array([[0.0, 0, 0], [1.7, 1.7, 1.7]]) + 0.05 * rng.normal(size=(n, 2, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        ptr=2 * np.arange(n + 1),
        numbers=np.full(2 * n, element, dtype=np.uint8),
        pos=positions.reshape(-1, 3),
        energy=-3.8 + 0.01 * rng.normal(size=n),
        forces=0.1 * rng.normal(size=(2 * n, 3)),
        cell=np.tile(3.4 * np.eye(3), (n, 1, 1)),
        pbc=np.ones((n, 3), dtype=bool),
        virial_stress=10.0 * rng.normal(size=(n, 6)),
    )


def relaxations(path, elements):
    """Relaxations of four frames for lists of atomic numbers."""
    rng = np.random.default_rng(0)
    numbers = [z for own in elements for _ in range(4) for z in own]
    sizes = [len(own) for own in elements for _ in range(4)]
    n, rows = len(sizes), len(numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        ptr=np.concatenate([[0], np.cumsum(sizes)]),
        numbers=np.array(numbers, dtype=np.uint8),
        pos=rng.uniform(0.0, 6.0, size=(rows, 3)).astype(np.float32),
        energy=rng.normal(size=n),
        forces=rng.normal(size=(rows, 3)),
        cell=np.tile(8.0 * np.eye(3), (n, 1, 1)),
        pbc=np.ones((n, 3), dtype=bool),
        sid=np.array([f"random{k:03d}" for k in range(len(elements)) for _ in range(4)]),
    )


def wandering_water(path, n=60, seed=0):
    """Two waters that drift through their cell, frames in shuffled order."""
    rng = np.random.default_rng(seed)
    shape = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    start = np.concatenate([shape, shape + 4.0])
    order = rng.permutation(n)
    positions = start + 0.05 * order[:, None, None] + 0.01 * rng.normal(size=(n, 6, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        z=np.array([8, 1, 1, 8, 1, 1]),
        R=positions.astype(np.float32),
        E=rng.normal(size=n).astype(np.float32),
        F=rng.normal(size=(n, 6, 3)).astype(np.float32),
        cell=np.tile(8.0 * np.eye(3, dtype=np.float32), (n, 1, 1)),
        energy_unit=np.array("eV"),
    )
    return order


def make_folder(folder):
    """Write every file of the benchmark."""
    molecule(folder / "md17/rmd17_ethanol_train1000.npz", 60, 0)
    molecule(folder / "md17/rmd17_ethanol_test1000.npz", 6, 1)
    molecule(folder / "md17/ethanol_ccsd_t_train1000.npz", 40, 2, unit="kcal/mol")
    molecule(folder / "molecules/acac_train_300K.npz", 60, 3, 5)
    molecule(folder / "molecules/acac_test_MD_300K.npz", 5, 4, 5)
    molecule(folder / "molecules/acac_test_MD_600K.npz", 7, 5, 5)
    mixed = molecule(folder / "molecules/3BPA_train_mixedT.npz", 30, 6, 5)
    molecule(folder / "molecules/3BPA_train_300K.npz", 20, 7, 5, first=mixed[:4])
    wandering_water(folder / "water/deepmd_water_pbe0ts_192.npz")
    for element, z in (("Li", 3), ("Si", 14), ("Mo", 42)):
        crystals(folder / f"bulk/mlearn_{element}_training.npz", 26, z, z)
        crystals(folder / f"bulk/mlearn_{element}_test.npz", 4, z + 1, z)
    relaxations(
        folder / "oc20/oc20_relaxations_25.npz",
        [[29, 29, 8], [29, 29, 6], [29, 8, 6], [78, 78, 8, 8], [29, 29, 1], [29, 6, 1]],
    )
    return folder
