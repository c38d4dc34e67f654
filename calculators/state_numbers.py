"""Bare numbers out of a state of OpenMM.

OpenMM multiplies every array with a unit. In the short time between two evaluations of a network,
when no cache holds that code, this takes longer than all else that a door does, so arrays are
fetched as OpenMM's own methods fetch them, before the unit. Where OpenMM has no such way, its
public methods are asked.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import openmm

Array = np.ndarray[Any, np.dtype[np.float64]]

#: Three vectors, nm.
Box = tuple[tuple[float, float, float], ...]

_BOX_OF: Final = getattr(
    getattr(openmm.openmm, "_openmm", None), "State_getPeriodicBoxVectors", None
)


def positions_nm(state: Any) -> Array:  # noqa: ANN401
    """Return positions, `(n_particles, 3)`, nm; an array of its own.

    Args:
        state: that was asked for positions.

    Raises:
        openmm.OpenMMException: if it was not.
    """
    found = _bare(state, "Positions")
    return state.getPositions(asNumpy=True)._value.copy() if found is None else found


def velocities_nm_per_ps(state: Any) -> Array:  # noqa: ANN401
    """Return velocities, `(n_particles, 3)`, nm/ps; an array of its own.

    Args:
        state: that was asked for velocities.

    Raises:
        openmm.OpenMMException: if it was not.
    """
    found = _bare(state, "Velocities")
    return state.getVelocities(asNumpy=True)._value.copy() if found is None else found


def box_nm(state: Any) -> Box:  # noqa: ANN401
    """Return the three vectors of the periodic box, nm.

    Args:
        state: any.
    """
    if _BOX_OF is not None and isinstance(state, openmm.State):
        return tuple(_BOX_OF(state))
    return tuple(tuple(row) for row in state.getPeriodicBoxVectors(asNumpy=True)._value.tolist())


def _bare(state: Any, kind: str) -> Array | None:  # noqa: ANN401
    """Vectors without a unit, or None if OpenMM does not give them so."""
    if not isinstance(state, openmm.State) or not hasattr(state, "_getVectorAsNumpy"):
        return None
    made = np.empty((state._getNumParticles(), 3))
    state._getVectorAsNumpy(getattr(openmm.State, kind), made)
    return made
