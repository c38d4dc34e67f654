"""A cheap potential for any molecule: the bonded force field, fitted to the dear one in seconds.

Where no cheap potential is given, this one is the inner force of multiple time steps and what
proposes in Metropolised segments. It is force-matched to frames of hot dynamics and knows bonds,
angles and torsions only: what is not bonded does not repel.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from egno_md.benchmarks.bonded_force_field import Terms, fitted, terms_at
from egno_md.propagators.classical import Langevin
from egno_md.roles import EnergyForces, Potential
from egno_md.state import State, maxwell_boltzmann

#: Temperature of the dynamics that is fitted to, K; replicas and frames of it.
_HOT_K: Final = 450.0
_N_FRAMES: Final = (16, 8)

#: Largest component of a force in what counts as a minimum.
_FORCE_LIMIT_EV_A: Final = 0.01

_TERMS: Final = ("bonds", "angles", "torsions", "lengths", "openings")


class FittedForceField:
    """The energies and forces of a bonded force field, all replicas at once."""

    def __init__(self, terms: Terms, constants: Tensor) -> None:
        """Put it together.

        Args:
            terms: of the molecule.
            constants: that `fitted` gave, `(n_constants,)`, eV per unit of the shape.
        """
        self.terms, self.constants = terms, constants

    def to_tensors(self) -> dict[str, Tensor]:
        """All that it is made of."""
        return {name: getattr(self.terms, name) for name in _TERMS} | {"constants": self.constants}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Read what `to_tensors` gave."""
        return cls(Terms(**{name: tensors[name] for name in _TERMS}), tensors["constants"])

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces.

        Args:
            state: of the molecule that was fitted.
        """
        with torch.enable_grad():
            x = state.positions.detach().to(torch.float64).requires_grad_()
            energy = self.terms.shapes(x) @ self.constants
            (slope,) = torch.autograd.grad(energy.sum(), x)
        return EnergyForces(energy.detach(), -slope.to(state.positions))

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV."""
        found: Tensor = self.terms.shapes(state.positions.to(torch.float64)) @ self.constants
        return found


def fit_force_field(
    potential: Potential, structure: State, draw: torch.Generator
) -> tuple[FittedForceField, float, float]:
    """Fit a bonded force field to a potential.

    Args:
        potential: to be like.
        structure: one replica of the molecule, not periodic, with bonds.
        draw: source of randomness of the dynamics.

    Returns:
        the force field; the processor time that it took, s; the share of the force that it
        misses, rms.

    Raises:
        ValueError: if the molecule is periodic.
    """
    if any(structure.molecule.pbc):
        raise ValueError("a bonded force field is fitted to molecules that are not periodic")
    began = time.process_time()
    minimum = _minimum(potential, structure)
    frames = _hot_frames(potential, minimum, draw)
    terms = terms_at(minimum)
    made = FittedForceField(terms, fitted(terms, potential, frames))
    wanted = potential.evaluate(frames).forces.double()
    missed = (made.evaluate(frames).forces.double() - wanted).norm() / wanted.norm()
    return made, time.process_time() - began, float(missed)


def _minimum(potential: Potential, structure: State) -> State:
    """The molecule at rest where its energy is least, float64."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    shape, molecule = (1, structure.molecule.n_atoms, 3), structure.molecule

    def slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = State.at_rest(molecule, torch.from_numpy(x.copy()).reshape(shape))
        found = potential.evaluate(at)
        return float(found.energy), -found.forces.double().flatten().numpy()

    begin = structure.positions[:1].double().flatten().numpy()
    options = {"maxiter": 200, "gtol": _FORCE_LIMIT_EV_A}
    found = minimize(slope, begin, jac=True, method="L-BFGS-B", options=options)
    return State.at_rest(molecule, torch.from_numpy(found.x).reshape(shape))


def _hot_frames(potential: Potential, minimum: State, draw: torch.Generator) -> State:
    """Frames of hot dynamics, a replica each."""
    molecule, (n, per) = minimum.molecule, _N_FRAMES
    # Half of the energy that this puts into the velocities goes into the springs.
    hot = maxwell_boltzmann(molecule, n, 2.0 * _HOT_K, draw)
    start = State(molecule, minimum.positions.expand(n, -1, -1).clone(), hot)
    bath = Langevin(potential, 1.0, 25.0, per, _HOT_K, 20.0, draw)
    x = bath.advance(start).positions
    return State.at_rest(molecule, x.transpose(0, 1).reshape(-1, molecule.n_atoms, 3))
