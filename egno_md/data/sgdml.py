r"""sGDML force fields (Chmiela et al. 2018, doi:10.1038/s41467-018-06169-2) as potentials.

With the descriptor :math:`x_{ij} = 1/d_{ij}`, training descriptors :math:`a_t` and their
contracted coefficients :math:`b_t`, the model is a sum over training points and over the
permutations :math:`P` of equivalent atoms, with a Matérn-5/2 kernel of width :math:`\sigma`:

.. math::
    E = c + \frac{q}{3} \sum_{P,t} (1 + u) e^{-u} \, [q (x - P a_t)] \cdot P b_t,
    \qquad u = q |x - P a_t|, \quad q = \sqrt 5 / \sigma.

All distances and projections come out of one matrix product per batch, all descriptor forces
out of a second one. The permutations act on the query, so the training side is stored once
and stays in the processor's cache.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from os import PathLike
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egno_md.roles import EnergyForces
from egno_md.state import State
from egno_md.units import KCAL_PER_MOL

#: Entries (query rows x training points) worked on at a time; keeps the scratch in cache.
_BLOCK_ENTRIES: Final = 200_000

_EV_PER_UNIT: Final = {"kcal/mol": KCAL_PER_MOL, "eV": 1.0}


@dataclass(frozen=True, slots=True)
class SGDMLParameters:
    """The numbers of an sGDML file, in the file's own energy unit and Å.

    Attributes:
        numbers: `(n_atoms,)` int64, atomic numbers in the one order the model knows.
        descriptors: `(n_train, n_pairs)`, 1/Å, pairs `i > j` row by row.
        coefficients: `(n_train, n_pairs)`, gradient coefficients contracted with Jacobians.
        permutations: `(n_perms, n_atoms)` int64, counted from 0.
        width: kernel width, 1/Å.
        scale: factor on the kernel sum.
        offset: absolute energy added to it.
        ev_per_unit: one energy unit of the file in eV.
    """

    numbers: NDArray[np.int64]
    descriptors: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    permutations: NDArray[np.int64]
    width: float
    scale: float
    offset: float
    ev_per_unit: float

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            ValueError: naming the part that does not.
        """
        n = len(self.numbers)
        pairs = n * (n - 1) // 2
        if self.descriptors.ndim != 2 or self.descriptors.shape[1] != pairs:
            raise ValueError(
                f"descriptors have shape {self.descriptors.shape}; "
                f"{n} atoms need (n_train, {pairs})"
            )
        if self.coefficients.shape != self.descriptors.shape:
            raise ValueError(
                f"coefficients have shape {self.coefficients.shape}, "
                f"descriptors {self.descriptors.shape}; they must be the same"
            )
        each_once = self.permutations.shape[1:] == (n,) and np.array_equal(
            np.sort(self.permutations, axis=1),
            np.broadcast_to(np.arange(n), self.permutations.shape),
        )
        if not each_once or len(self.permutations) == 0:
            raise ValueError(f"every row of perms must hold each of the {n} atoms once")
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"the kernel width sig is {self.width}; it must be positive")
        for name in ("descriptors", "coefficients"):
            if not bool(np.isfinite(getattr(self, name)).all()):
                raise ValueError(f"{name} hold numbers that are not finite")


def read_sgdml(path: str | PathLike[str]) -> SGDMLParameters:
    """Read an sGDML model file of the 2018 (`Rt_desc`) or the present (`R_desc`) layout.

    Only the fields that the model needs are touched, so object fields are never unpickled.

    Args:
        path: the `.npz` file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the field that is missing, wrong or not supported.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an sGDML .npz file: {error}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} holds one array, not an sGDML model")
    with archive:
        try:
            return _parameters(archive)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be used as an sGDML model: {error}") from None


def _parameters(archive: np.lib.npyio.NpzFile) -> SGDMLParameters:
    """Pick the fields out of either layout."""
    old = "Rt_desc" in archive
    wanted = ["z", "perms", "sig", "c"]
    wanted += ["Rt_desc", "Rt_d_desc_alpha"] if old else ["R_desc", "R_d_desc_alpha"]
    missing = [key for key in wanted if key not in archive]
    if missing:
        raise ValueError(f"it has no field {missing[0]!r}; found {', '.join(archive.files)}")
    for key, what in (("alphas_E", "energy constraints"), ("lattice", "a periodic lattice")):
        if key in archive:
            raise ValueError(f"it was trained with {what} (field {key!r}), not supported here")
    numbers, descriptors, coefficients, perms = (
        np.asarray(archive[key]) for key in ("z", wanted[-2], wanted[-1], "perms")
    )
    # The 2018 layout counts atoms from 1 and keeps a trailing axis of length one.
    if coefficients.ndim == 3 and coefficients.shape[2] == 1:
        coefficients = coefficients[..., 0]
    perms = perms.astype(np.int64).reshape(-1, numbers.size)
    unit = str(archive["e_unit"]) if "e_unit" in archive else "kcal/mol"
    if unit not in _EV_PER_UNIT:
        raise ValueError(f"its energy unit is {unit!r}; known are {', '.join(_EV_PER_UNIT)}")
    length = str(archive["r_unit"]) if "r_unit" in archive else "Ang"
    if length not in ("Ang", "Angstrom", "Å"):
        raise ValueError(f"its length unit is {length!r}; only Ang is known")
    return SGDMLParameters(
        numbers=numbers.astype(np.int64),
        descriptors=np.ascontiguousarray(descriptors.T, dtype=np.float64),
        coefficients=np.ascontiguousarray(coefficients, dtype=np.float64),
        permutations=perms - 1 if perms.min() == 1 else perms,
        width=float(archive["sig"]),
        scale=float(archive["std"]) if "std" in archive else 1.0,
        offset=float(archive["c"]),
        ev_per_unit=_EV_PER_UNIT[unit],
    )


def _pair_permutations(permutations: NDArray[np.int64]) -> NDArray[np.int64]:
    """How permutations of atoms act on the descriptor, `(n_perms, n_pairs)`."""
    n = permutations.shape[1]
    row, column = np.tril_indices(n, -1)
    index = np.zeros((n, n), dtype=np.int64)
    index[row, column] = np.arange(len(row))
    index += index.T
    return index[permutations[:, row], permutations[:, column]]


class SGDMLPotential:
    """An sGDML force field: energies and forces of many replicas of one molecule.

    The model is tied to one molecule and one order of its atoms. It works in float64 inside
    whatever the dtype of the positions, and knows no periodicity. It is exact within the
    range of its training data only: far from it the energy flattens out to the offset.
    """

    def __init__(self, parameters: SGDMLParameters, device: str | torch.device = "cpu") -> None:
        """Prepare the matrices.

        Args:
            parameters: what `read_sgdml` returns.
            device: where to compute.
        """
        p = parameters
        self.numbers = torch.from_numpy(p.numbers)
        self.device = torch.device(device)
        q = math.sqrt(5.0) / p.width
        # Distances come from |u|^2 + |a|^2 - 2 u.a: centring keeps the digits.
        centre = p.descriptors.mean(0)
        forward = _pair_permutations(p.permutations)
        backward = np.argsort(forward, axis=1)
        if len(p.permutations) > 1:
            # A centre that every permutation leaves alone is subtracted once.
            centre = centre[forward].mean(0)
        a = q * (p.descriptors - centre)
        b = p.coefficients
        # Columns answer (u, |u|^2, 1) with the squared distance, then with (u - a).b.
        squares = np.hstack([-2.0 * a, np.ones((len(a), 1)), (a * a).sum(1, keepdims=True)])
        projections = np.hstack([b, np.zeros((len(a), 1)), -(a * b).sum(1, keepdims=True)])
        self._query_to_train = self._tensor(np.vstack([squares, projections]).T)
        self._train_to_query = self._tensor(np.vstack([a, b]))
        self._centre = self._tensor(centre)
        self._forward = torch.from_numpy(forward).to(self.device)
        self._backward = torch.from_numpy(backward).to(self.device)
        row, column = np.tril_indices(len(p.numbers), -1)
        self._row = torch.from_numpy(row).to(self.device)
        self._column = torch.from_numpy(column).to(self.device)
        self._q = q
        self._n_train = len(a)
        self._energy_factor = p.scale * q / 3.0 * p.ev_per_unit
        self._offset_eV = p.offset * p.ev_per_unit
        rows = max(1, _BLOCK_ENTRIES // self._n_train)
        self._replicas_per_block = max(1, rows // len(p.permutations))

    @classmethod
    def from_npz(
        cls, path: str | PathLike[str], device: str | torch.device = "cpu"
    ) -> SGDMLPotential:
        """Load a force field from an sGDML model file.

        Args:
            path: the `.npz` file, 2018 or present layout.
            device: where to compute.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a usable sGDML model.
        """
        return cls(read_sgdml(path), device)

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces of every replica.

        Args:
            state: replicas of the molecule the model was trained on, atoms in its order.

        Returns:
            Energies in eV with the model's absolute offset, forces in eV/Å.

        Raises:
            ValueError: if the atoms are not the model's, the state is periodic or two atoms
                coincide.
        """
        self._check_molecule(state)
        energies, forces = [], []
        for positions in torch.split(state.positions, self._replicas_per_block):
            energy, force = self._block(positions, with_forces=True)
            energies.append(energy)
            forces.append(force)
        forces_eV_A = torch.cat(forces).to(state.positions)
        return EnergyForces(self._checked(torch.cat(energies), state), forces_eV_A)

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV.

        Args:
            state: as for `evaluate`.

        Raises:
            ValueError: as `evaluate` does.
        """
        self._check_molecule(state)
        blocks = torch.split(state.positions, self._replicas_per_block)
        return self._checked(
            torch.cat([self._block(x, with_forces=False)[0] for x in blocks]), state
        )

    def _block(self, positions: Tensor, *, with_forces: bool) -> tuple[Tensor, Tensor]:
        """Energies `(n,)` eV and forces `(n, n_atoms, 3)` eV/Å of `(n, n_atoms, 3)` positions."""
        n, m = positions.shape[0], self._n_train
        x = positions.to(self.device, torch.float64)
        arrows = x[:, self._row] - x[:, self._column]
        inverse = arrows.square().sum(-1).rsqrt()
        u = (self._q * (inverse - self._centre))[:, self._backward].flatten(0, 1)
        query = torch.cat([u, u.square().sum(-1, keepdim=True), torch.ones_like(u[:, :1])], 1)
        table = query @ self._query_to_train
        distance = table[:, :m].clamp_(min=0.0).sqrt_()
        weight = table[:, m:]
        decay = torch.exp(-distance)
        weight.mul_(decay)
        total = weight.sum(-1)
        energy = total + torch.linalg.vecdot(weight, distance)
        energy = energy.reshape(n, -1).sum(-1) * self._energy_factor + self._offset_eV
        if not with_forces:
            return energy.to(positions.device), positions
        # From here the table holds e^-u (u - a).b and (1 + u) e^-u side by side.
        kernel = torch.addcmul(decay, decay, distance, out=decay)
        pull = u * total[:, None]
        pull.addmm_(weight, self._train_to_query[:m], alpha=-1.0)
        pull.addmm_(kernel, self._train_to_query[m:], alpha=-1.0)
        pull = pull.reshape(n, len(self._forward), -1)
        pull = pull.gather(2, self._forward.expand(n, -1, -1)).sum(1)
        # d(1/d)/dr_i = -(r_i - r_j) / d^3, and q/3 * dE/du * q is the factor of the file.
        pairs = arrows * (pull * inverse**3 * (-self._energy_factor * self._q))[..., None]
        forces = torch.zeros_like(x)
        forces.index_add_(1, self._row, pairs).index_add_(1, self._column, pairs, alpha=-1.0)
        return energy.to(positions.device), forces.to(positions.device)

    def _check_molecule(self, state: State) -> None:
        """Refuse other atoms, another order, periodicity."""
        from ase.data import chemical_symbols

        given = state.molecule.numbers.to(self.numbers.device)
        if len(given) != len(self.numbers):
            raise ValueError(
                f"this sGDML force field is for {len(self.numbers)} atoms, "
                f"the state has {len(given)}"
            )
        different = (given != self.numbers).nonzero()
        if len(different):
            i = int(different[0])
            raise ValueError(
                f"atom {i} is {chemical_symbols[int(given[i])]}, but this sGDML force field "
                f"expects {chemical_symbols[int(self.numbers[i])]} there; its atom order is "
                + " ".join(chemical_symbols[int(z)] for z in self.numbers)
            )
        if any(state.molecule.pbc):
            raise ValueError("an sGDML force field is for isolated molecules, not periodic ones")

    def _checked(self, energy: Tensor, state: State) -> Tensor:
        """Return the energies, or say which atoms coincide."""
        bad = (~torch.isfinite(energy)).nonzero()
        if not len(bad):
            return energy
        r = int(bad[0])
        x = state.positions[r].to(torch.float64)
        row, column = self._row.to(x.device), self._column.to(x.device)
        distance = (x[row] - x[column]).norm(dim=-1)
        k = int(distance.argmin())
        raise ValueError(
            f"the sGDML energy of replica {r} is {float(energy[r])} eV; its closest atoms "
            f"{int(column[k])} and {int(row[k])} are {float(distance[k]):.3g} Å apart"
        )

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(self.device)
