"""Bonds of fixed length: positions put onto them, velocities and forces along them removed.

With g_k(x) = (|x_i - x_j|^2 - d_k^2) / 2 the rows of J(x) = dg/dx are the bond vectors.

- Positions: x' = x + M^-1 J(r)^T l with g(x') = 0, r the last positions on the constraints (SHAKE:
  Ryckaert, Ciccotti and Berendsen, J. Comput. Phys. 23, 327 (1977)). All multipliers l are solved
  for together by Newton's method.
- Velocities: v' = v - M^-1 J^T (J M^-1 J^T)^-1 J v, so that J v' = 0 (RATTLE: Andersen, J. Comput.
  Phys. 52, 24 (1983)).

| symbol | variable |
|---|---|
| J(x) | `arrows`, one bond vector per constraint |
| J(x) M^-1 J(r)^T | `_coupling` |
| d | `lengths_A` |

Everything is worked out in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.state import Molecule

#: Newton's method is quadratic; where it has not come home after so many rounds it will not.
_MOST_ROUNDS = 25

#: Bonds farther off at the start are no matter of a constraint, Å.
_START_LIMIT_A = 0.5

#: What is left of g, relative to the squared length, when Newton's method stops.
_TOLERANCE = 1e-13

#: What a start may have left, by the rounding of its own numbers, and be taken as it is.
_START_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


class BondConstraints:
    """Some bonds of a molecule, held at given lengths."""

    def __init__(self, molecule: Molecule, pairs: Tensor, lengths_A: Tensor) -> None:
        """Check the constraints.

        Args:
            molecule: gives the masses.
            pairs: `(n_constraints, 2)` int64, atoms.
            lengths_A: `(n_constraints,)`, Å, positive.

        Raises:
            ValueError: if shapes do not fit, an atom is not there or a length is not positive.
        """
        n, m = molecule.n_atoms, len(pairs)
        if pairs.shape != (m, 2) or lengths_A.shape != (m,):
            raise ValueError(
                f"constraints need pairs (n, 2) and n lengths, got {tuple(pairs.shape)} and "
                f"{tuple(lengths_A.shape)}"
            )
        if bool(((pairs < 0) | (pairs >= n)).any()) or bool((pairs[:, 0] == pairs[:, 1]).any()):
            raise ValueError(f"constraints must join two different atoms of 0..{n - 1}")
        if not bool((torch.isfinite(lengths_A) & (lengths_A > 0)).all()):
            raise ValueError(f"lengths_A must be positive, got {lengths_A.tolist()}")
        self.molecule, self.pairs = molecule, pairs
        self.lengths_A = lengths_A.to(torch.float64)
        self._inverse = 1.0 / molecule.masses
        i, j = pairs[:, 0], pairs[:, 1]
        # What M^-1 makes of two constraints that share atoms, with the signs of their ends.
        ends = torch.zeros((m, n), dtype=torch.float64)
        ends[torch.arange(m), i] = 1.0
        ends[torch.arange(m), j] = -1.0
        self._ends = ends
        self._shared = (ends * self._inverse) @ ends.T

    def __len__(self) -> int:
        """Number of constraints."""
        return len(self.pairs)

    def degrees_of_freedom(self) -> int:
        """Count the degrees of freedom under noise: 3 n_atoms less one per constraint."""
        return 3 * self.molecule.n_atoms - len(self)

    def arrows(self, positions: Tensor) -> Tensor:
        """Bond vectors.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.

        Returns:
            `(n_replicas, n_constraints, 3)`, Å, float64.
        """
        x = positions.to(torch.float64)
        return x[:, self.pairs[:, 0]] - x[:, self.pairs[:, 1]]

    def deviation_A(self, positions: Tensor) -> float:
        """Largest deviation of a bond from its length, Å.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
        """
        if not len(self):
            return 0.0
        return float((self.arrows(positions).norm(dim=-1) - self.lengths_A).abs().max())

    def onto(self, positions: Tensor, last: Tensor) -> Tensor:
        """Move positions onto the constraints, along the bonds as they last were.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            last: same shape; the directions of the bonds there are those of the forces.

        Returns:
            Positions, same shape, float64.

        Raises:
            ValueError: if no such positions are found: the step was too long.
        """
        x, squares = positions.to(torch.float64), self.lengths_A.square()
        if not len(self):
            return x
        along = self.arrows(last)
        for _ in range(_MOST_ROUNDS):
            arrows = self.arrows(x)
            off = arrows.square().sum(-1) - squares
            if bool((off.abs() <= _TOLERANCE * squares).all()):
                return x
            # d(off)/d(multiplier) = 2 J(x) M^-1 J(last)^T
            multipliers = self._solved(arrows, along, -0.5 * off)
            x = x + self._spread(multipliers, along)
            if not bool(torch.isfinite(x).all()):
                break
        raise ValueError(
            f"bonds could not be brought to their fixed lengths in {_MOST_ROUNDS} rounds (the "
            f"largest deviation is {self.deviation_A(positions):.3g} Å); take a shorter time step"
        )

    def start(self, positions: Tensor, velocities: Tensor) -> tuple[Tensor, Tensor]:
        """Bring a start onto the constraints.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.

        Returns:
            Both, same shapes and dtypes; the very same where they are off by rounding only.

        Raises:
            ValueError: if a bond is more than 0.5 Å off.
        """
        if not len(self):
            return positions, velocities
        arrows = self.arrows(positions)
        off = (arrows.norm(dim=-1) - self.lengths_A).abs()
        if float(off.max()) > _START_LIMIT_A:
            r, k = (int(n) for n in (off == off.max()).nonzero()[0])
            i, j = self.pairs[k].tolist()
            raise ValueError(
                f"atoms {i} and {j} of replica {r} are {float(off[r, k]):.3g} Å off their fixed "
                f"length of {float(self.lengths_A[k]):.4g} Å; allowed are {_START_LIMIT_A} Å"
            )
        rounding = _START_TOLERANCE[positions.dtype]
        x, v = positions, velocities
        if bool((off > rounding * self.lengths_A).any()):
            x = self.onto(positions, positions).to(positions)
        opening = self._openings(self.arrows(x), v.to(torch.float64))
        speed = float(v.norm(dim=-1).max())
        if bool((opening.abs() > rounding * self.lengths_A * speed).any()):
            v = self.tangent(x, v)
        return x, v

    def tangent(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """Remove what would change the length of a bond.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape; any that move with the atoms.

        Returns:
            Velocities, same shape and dtype.
        """
        if not len(self):
            return velocities
        arrows, v = self.arrows(positions), velocities.to(torch.float64)
        multipliers = self._solved(arrows, arrows, -self._openings(arrows, v))
        return (v + self._spread(multipliers, arrows)).to(velocities)

    def tangent_forces(self, positions: Tensor, forces: Tensor) -> Tensor:
        """Add the forces of the bonds to other forces: F' = M P M^-1 F, P as in `tangent`.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            forces: same shape.

        Returns:
            Forces, same shape and dtype, whose accelerations `tangent` leaves as they are.
        """
        masses = self.molecule.masses[:, None]
        return (masses * self.tangent(positions, forces.to(torch.float64) / masses)).to(forces)

    def _openings(self, arrows: Tensor, velocities: Tensor) -> Tensor:
        """J v, `(n_replicas, n_constraints)`."""
        i, j = self.pairs[:, 0], self.pairs[:, 1]
        return (arrows * (velocities[:, i] - velocities[:, j])).sum(-1)

    def _solved(self, arrows: Tensor, along: Tensor, wanted: Tensor) -> Tensor:
        """Multipliers l of `_coupling` l = wanted, `(n_replicas, n_constraints)`."""
        coupling = torch.einsum("rka,rla->rkl", arrows, along) * self._shared
        solution = torch.linalg.solve_ex(coupling, wanted)
        if bool(solution.info.any()):
            raise ValueError("fixed bonds contradict each other or are redundant")
        found: Tensor = solution.result
        return found

    def _spread(self, multipliers: Tensor, along: Tensor) -> Tensor:
        """M^-1 J^T l, `(n_replicas, n_atoms, 3)`."""
        pulls = torch.einsum("kn,rka->rna", self._ends, multipliers[..., None] * along)
        return self._inverse[:, None] * pulls
