"""What is simulated: the fixed part (`Molecule`) and one instant of it (`State`).

Every state has a leading replica axis, so that one code path serves one copy of a molecule
and a thousand. Both types are checked at birth: whoever holds one need not check again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2


def _first_bad(values: Tensor) -> tuple[int, ...]:
    """Index of the first non-finite entry."""
    return tuple(int(i) for i in (~torch.isfinite(values)).nonzero()[0])


@dataclass(frozen=True, slots=True, eq=False)
class Molecule:
    """The part of a system that does not change while it moves.

    Attributes:
        numbers: `(n_atoms,)` int64, atomic numbers, 1..118.
        masses: `(n_atoms,)` float64, amu, all positive.
        bonds: `(n_bonds, 2)` int64, pairs of atom indices, each pair once, `i < j`.
        names: one name per atom, or empty.
        pbc: whether each cell vector is periodic.
    """

    numbers: Tensor
    masses: Tensor
    bonds: Tensor = field(default_factory=lambda: torch.zeros((0, 2), dtype=torch.int64))
    names: tuple[str, ...] = ()
    pbc: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        """Check shapes, element numbers, masses and bonds.

        Raises:
            ValueError: naming the field and the atom that is wrong.
        """
        n = self.numbers.shape[0] if self.numbers.ndim == 1 else -1
        if n < 1 or self.numbers.dtype != torch.int64:
            raise ValueError(
                "molecule.numbers must be an int64 vector with at least one atom, "
                f"got shape {tuple(self.numbers.shape)} of {self.numbers.dtype}"
            )
        wrong = ((self.numbers < 1) | (self.numbers > 118)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(
                f"atom {i} has atomic number {int(self.numbers[i])}; allowed are 1 to 118"
            )
        if self.masses.shape != (n,) or self.masses.dtype != torch.float64:
            raise ValueError(
                f"molecule.masses must be float64 of shape ({n},) in amu, "
                f"got {tuple(self.masses.shape)} of {self.masses.dtype}"
            )
        bad_mass = (~(torch.isfinite(self.masses) & (self.masses > 0))).nonzero()
        if len(bad_mass):
            i = int(bad_mass[0])
            raise ValueError(f"atom {i} has mass {float(self.masses[i])} amu; it must be positive")
        if self.bonds.ndim != 2 or self.bonds.shape[1] != 2 or self.bonds.dtype != torch.int64:
            raise ValueError(
                f"molecule.bonds must be int64 of shape (n_bonds, 2), "
                f"got {tuple(self.bonds.shape)} of {self.bonds.dtype}"
            )
        if len(self.bonds):
            low, high = self.bonds[:, 0], self.bonds[:, 1]
            if bool(((low < 0) | (high >= n) | (low >= high)).any()):
                raise ValueError(f"molecule.bonds must hold pairs i < j of atoms 0..{n - 1}")
        if self.names and len(self.names) != n:
            raise ValueError(f"molecule.names has {len(self.names)} entries for {n} atoms")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return int(self.numbers.shape[0])

    @classmethod
    def from_numbers(
        cls,
        numbers: Sequence[int] | Tensor,
        *,
        bonds: Sequence[tuple[int, int]] | Tensor = (),
        names: Sequence[str] = (),
        pbc: tuple[bool, bool, bool] = (False, False, False),
    ) -> Molecule:
        """Make a molecule from atomic numbers, with ASE's standard atomic masses.

        Args:
            numbers: `(n_atoms,)` atomic numbers.
            bonds: pairs of atom indices.
            names: one name per atom, or empty.
            pbc: periodic directions.

        Returns:
            The molecule, checked.

        Raises:
            ValueError: as the constructor does.
        """
        from ase.data import atomic_masses

        z = torch.as_tensor(numbers, dtype=torch.int64)
        # Out-of-range numbers get a stand-in mass so that the constructor names them.
        masses = torch.tensor(
            [
                float(atomic_masses[i]) if 0 < i < len(atomic_masses) else 1.0
                for i in z.flatten().tolist()
            ],
            dtype=torch.float64,
        )
        pairs = torch.as_tensor(bonds, dtype=torch.int64).reshape(-1, 2)
        return cls(z, masses, pairs, tuple(names), pbc)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One instant of one or many replicas of a molecule.

    Attributes:
        molecule: the fixed part, shared by all replicas.
        positions: `(n_replicas, n_atoms, 3)`, Å, float32 or float64, unwrapped.
        velocities: same shape and dtype, Å/fs.
        time_fs: time of this instant, the same for all replicas.
        cell: `(n_replicas, 3, 3)`, Å, rows are cell vectors; None without periodicity.
    """

    molecule: Molecule
    positions: Tensor
    velocities: Tensor
    time_fs: float = 0.0
    cell: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes, dtypes and that every number is finite.

        Raises:
            ValueError: naming the field, replica and atom that is wrong.
        """
        n = self.molecule.n_atoms
        x, v = self.positions, self.velocities
        if x.ndim != 3 or x.shape[0] < 1 or tuple(x.shape[1:]) != (n, 3):
            raise ValueError(
                f"state.positions must have shape (n_replicas, {n}, 3), got {tuple(x.shape)}"
            )
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"state.positions must be float32 or float64, got {x.dtype}")
        if v.shape != x.shape or v.dtype != x.dtype:
            raise ValueError(
                f"state.velocities must match positions ({tuple(x.shape)} of {x.dtype}), "
                f"got {tuple(v.shape)} of {v.dtype}"
            )
        for name, unit, values in (("position", "Å", x), ("velocity", "Å/fs", v)):
            if not bool(torch.isfinite(values).all()):
                r, i, axis = _first_bad(values)
                raise ValueError(
                    f"{name} of atom {i} (replica {r}, {'xyz'[axis]}) is "
                    f"{float(values[r, i, axis])} {unit}; it must be a finite number"
                )
        self._check_cell()

    def _check_cell(self) -> None:
        pbc = self.molecule.pbc
        if self.cell is None:
            if any(pbc):
                raise ValueError(f"the molecule is periodic (pbc {pbc}) but the state has no cell")
            return
        shape = (self.positions.shape[0], 3, 3)
        if tuple(self.cell.shape) != shape or not bool(torch.isfinite(self.cell).all()):
            raise ValueError(
                f"state.cell must be finite with shape {shape}, got {tuple(self.cell.shape)}"
            )
        if any(pbc) and bool((torch.linalg.det(self.cell).abs() < 1e-6).any()):
            raise ValueError("state.cell has zero volume: its vectors are not independent")

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return int(self.positions.shape[0])

    def with_(self, **changes: object) -> State:
        """Return a copy with some fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def replica(self, index: Tensor | Sequence[int] | int) -> State:
        """Return the state of some replicas, the replica axis kept.

        Args:
            index: one index, several, or a boolean mask `(n_replicas,)`.
        """
        picked = torch.as_tensor([index] if isinstance(index, int) else index)
        return replace(
            self,
            positions=self.positions[picked],
            velocities=self.velocities[picked],
            cell=None if self.cell is None else self.cell[picked],
        )

    @classmethod
    def at_rest(
        cls,
        molecule: Molecule,
        positions: Tensor,
        *,
        cell: Tensor | None = None,
        time_fs: float = 0.0,
    ) -> State:
        """Make a state without velocities.

        Args:
            molecule: the fixed part.
            positions: `(n_atoms, 3)` or `(n_replicas, n_atoms, 3)`, Å.
            cell: `(3, 3)` or `(n_replicas, 3, 3)`, Å, or None.
            time_fs: time of this instant.
        """
        x = positions[None] if positions.ndim == 2 else positions
        if cell is not None and cell.ndim == 2:
            cell = cell.expand(x.shape[0], 3, 3)
        return cls(molecule, x, torch.zeros_like(x), time_fs, cell)


def kinetic_energy(molecule: Molecule, velocities: Tensor) -> Tensor:
    """Kinetic energy of each replica.

    Args:
        molecule: gives the masses.
        velocities: `(..., n_atoms, 3)`, Å/fs.

    Returns:
        `(...)`, eV, float64.
    """
    squares = velocities.to(torch.float64).square().sum(-1)
    return 0.5 * EV_PER_AMU_A2_FS2 * (squares * molecule.masses.to(squares.device)).sum(-1)


def temperature_K(
    molecule: Molecule, velocities: Tensor, degrees_of_freedom: int | None = None
) -> Tensor:
    """Kinetic temperature of each replica, T = 2 K / (f k_B).

    Args:
        molecule: gives the masses.
        velocities: `(..., n_atoms, 3)`, Å/fs.
        degrees_of_freedom: f; 3 n_atoms when None (nothing removed, as under Langevin).

    Returns:
        `(...)`, K, float64.
    """
    f = 3 * molecule.n_atoms if degrees_of_freedom is None else degrees_of_freedom
    return 2.0 * kinetic_energy(molecule, velocities) / (f * BOLTZMANN_EV_PER_K)


def maxwell_boltzmann(
    molecule: Molecule, n_replicas: int, kelvin: float, generator: torch.Generator
) -> Tensor:
    """Draw velocities from the Maxwell-Boltzmann distribution; nothing is removed or rescaled.

    Args:
        molecule: gives the masses.
        n_replicas: number of independent draws.
        kelvin: temperature, K, not negative.
        generator: source of randomness.

    Returns:
        `(n_replicas, n_atoms, 3)`, Å/fs, float64.

    Raises:
        ValueError: if the temperature is negative or not finite.
    """
    if not 0.0 <= kelvin < float("inf"):
        raise ValueError(f"temperature must be a finite number >= 0 K, got {kelvin}")
    noise = torch.randn((n_replicas, molecule.n_atoms, 3), generator=generator, dtype=torch.float64)
    spread = (BOLTZMANN_EV_PER_K * kelvin / EV_PER_AMU_A2_FS2 / molecule.masses).sqrt()
    return noise * spread[:, None]
