"""ASE's constraints under a propagator: which of them segments can keep, and how.

An atom that does not move is an atom of endless mass: the network and the integrator divide its
force by that, and all others feel it where it is. Nothing else about them changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCom

from egno_md.propagators.degrees_of_freedom import degrees_of_freedom, without_rotation
from egno_md.propagators.own_baths import refuse_still_centre
from egno_md.propagators.same_masses import wrong_mass
from egno_md.roles import Propagator
from egno_md.segment import Segment
from egno_md.state import Molecule, State, kinetic_energy

#: amu; an acceleration by it is nothing beside a rounding error, in float32 too.
ENDLESS_MASS: Final = 1e20

#: Share of the kinetic energy below which an overall motion is none.
_NO_MOTION: Final = 1e-6

#: A held atom that a propagator moves farther than this was not held by it, Å.
_MOVED_A: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Held:
    """What constraints hold.

    Attributes:
        atoms: indices of atoms that do not move, ascending.
        centre: whether the centre of mass stays.
    """

    atoms: tuple[int, ...] = ()
    centre: bool = False

    def pinned(self, molecule: Molecule) -> Molecule:
        """Return the molecule with endless masses for atoms that do not move."""
        masses = molecule.masses.clone()
        masses[list(self.atoms)] = ENDLESS_MASS
        return replace(molecule, masses=masses)

    def refuse_unsuited(self, propagator: Propagator, molecule: Molecule) -> None:
        """Refuse a propagator that moves a held centre, or was made for other kinds or masses.

        Args:
            propagator: what would move them, perhaps with a network within.
            molecule: what moves, pinned.

        Raises:
            ValueError: saying what to do, and naming the atom.
        """
        if self.centre:
            instead = "remove FixCom, or make Metropolised with zero_momentum=True"
            refuse_still_centre(propagator, "FixCom", instead)
        found = wrong_mass(propagator, molecule)
        if found is None:
            return
        atom, mine, theirs = found
        if atom in self.atoms:
            raise ValueError(
                f"FixAtoms holds atom {atom}, and the propagator was made for one that moves "
                f"({theirs:g} amu); give the bundle instead, or make the propagator for a "
                f"molecule whose held atoms weigh {ENDLESS_MASS:g} amu"
            )
        raise ValueError(
            f"atom {atom} has mass {mine:g} amu here and {theirs:g} amu in the propagator; make "
            "the propagator for molecule_from_atoms(atoms) with bonds, or set the masses of the "
            "atoms"
        )

    def check_kept(self, start: State, segment: Segment) -> None:
        """Refuse a segment in which a held atom moves.

        Raises:
            ValueError: naming the atom and how far it moved.
        """
        if not self.atoms:
            return
        index = list(self.atoms)
        moved = (segment.positions[:, :, index] - start.positions[:, None, index]).norm(dim=-1)
        farthest = moved.nan_to_num(nan=0.0).amax((0, 1))
        k = int(farthest.argmax())
        if float(farthest[k]) > _MOVED_A:
            raise ValueError(
                f"the propagator moves atom {index[k]}, which FixAtoms holds, by "
                f"{float(farthest[k]):.3g} Å; give the bundle instead of a propagator that was "
                "made for free atoms"
            )

    def freedom(self, state: State, conserving: bool) -> int:
        """Count the degrees of freedom that share the kinetic energy.

        Args:
            state: where a run starts, one replica.
            conserving: whether the dynamics keeps momentum and angular momentum; those that are
                zero then stay zero.
        """
        molecule, v = state.molecule, state.velocities
        if self.atoms or self.centre or not conserving:
            return 3 * (molecule.n_atoms - len(self.atoms)) - 3 * self.centre
        kinetic = float(kinetic_energy(molecule, v)[0])
        momentum = (molecule.masses[:, None] * v[0].double()).sum(0)
        drift = momentum / molecule.masses.sum()
        drifting = float(kinetic_energy(molecule, drift.expand(1, molecule.n_atoms, 3))[0])
        still = drifting <= _NO_MOTION * kinetic
        turning = False
        if still and not any(molecule.pbc) and molecule.n_atoms > 1:
            unturned = without_rotation(molecule, state.positions, v)
            spinning = kinetic - float(kinetic_energy(molecule, unturned)[0])
            turning = abs(spinning) > _NO_MOTION * kinetic
        steady = still and not turning and not any(molecule.pbc)
        return degrees_of_freedom(molecule, zero_momentum=still, zero_angular_momentum=steady)


def held_by(atoms: Atoms) -> Held:
    """Read the constraints of some atoms.

    Args:
        atoms: any.

    Raises:
        ValueError: naming a constraint that segments cannot keep, or if nothing can move.
    """
    fixed: set[int] = set()
    centre = False
    for constraint in atoms.constraints:
        if type(constraint) is FixAtoms:
            fixed |= {int(i) % len(atoms) for i in np.atleast_1d(constraint.index)}
        elif type(constraint) is FixCom:
            centre = True
        else:
            raise ValueError(
                f"segments cannot keep the constraint {type(constraint).__name__}; FixAtoms and "
                "FixCom are possible, for others use a driver of ase.md with a calculator"
            )
    if fixed and centre:
        raise ValueError("FixAtoms and FixCom exclude each other: remove one of them")
    if len(fixed) == len(atoms):
        raise ValueError("FixAtoms holds every atom, so nothing can move")
    return Held(tuple(sorted(fixed)), centre)


def without_held_motion(held: Held, molecule: Molecule, velocities: torch.Tensor) -> torch.Tensor:
    """Return velocities that the constraints allow, `(n_replicas, n_atoms, 3)` Å/fs.

    Args:
        held: what the constraints hold.
        molecule: gives the masses.
        velocities: `(n_replicas, n_atoms, 3)`, Å/fs.
    """
    v = velocities.clone()
    v[:, list(held.atoms)] = 0.0
    if held.centre:
        masses = molecule.masses.to(v)[:, None]
        v = v - (masses * v).sum(-2, keepdim=True) / masses.sum()
    return v
