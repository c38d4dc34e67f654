"""A propagator as an OpenMM integrator, for tools that insist on one. Experimental.

OpenMM has no integrator that calls Python, but it has forces that do, and integrators made of
given steps. Three forces that hide in force groups of their own carry a frame: the first sees the
velocities, because they stand where positions stand while it is evaluated; the second returns
displacements and the third new velocities where forces are meant.

| step of the integrator | what happens |
|---|---|
| x0 <- x, x <- v | velocities stand in for positions |
| z <- f29 | the first force remembers them |
| x <- x0 | positions are back |
| dx <- f30, w <- f31 | the propagator makes one frame |
| x <- x + dx, v <- w | the frame |

Limits: platforms Reference and CPU (a GPU keeps forces in fixed point, and puts atoms into the
cell by their velocities); one frame per call, so a propagator that remembers a segment gains
nothing; no constraints; `getState` must be asked for the integrator's own force groups, as
reporters and minimisers do, or forces are displacements; copies of the system do not work.
`SegmentSimulation` has none of these limits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np
import openmm
import torch
from openmm import app

from egno_md.calculators.openmm_molecule import ParticleRoles, particle_roles
from egno_md.calculators.segment_scheme import (
    open_propagator,
    refuse_constraints,
    refuse_thermostat,
)
from egno_md.calculators.state_numbers import box_nm, positions_nm
from egno_md.propagators.guarded import finite_frames
from egno_md.roles import Propagator
from egno_md.state import State
from egno_md.units import NM_PER_A, PS_PER_FS

#: Force groups of the three hidden forces.
_GROUPS: Final = (29, 30, 31)
_VELOCITY: Final = NM_PER_A / PS_PER_FS

Array = np.ndarray[Any, np.dtype[np.float64]]


class SegmentIntegrator(openmm.CustomIntegrator):  # type: ignore[misc]
    """An integrator whose step is one frame of a propagator; see the limits above.

    Thermostats, barostats and motion removers of the system act before every frame.
    """

    def __init__(
        self, topology: app.Topology, system: openmm.System, propagator: str | Propagator
    ) -> None:
        """Add three forces to a system and make the integrator that goes with them.

        Args:
            topology: with elements and bonds.
            system: made from it; changed, and of use with this integrator only.
            propagator: name or path of a bundle, or a propagator.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if the system has constraints, uses a force group from 29 to 31, does not
                suit the propagator, or has a thermostat and the propagator a bath; or if OpenMM
                is older than 8.6.
        """
        if not hasattr(openmm, "PythonForce"):
            raise ValueError(
                f"OpenMM {openmm.__version__} has no PythonForce; SegmentIntegrator needs 8.6, "
                "SegmentSimulation does not"
            )
        taken = sorted({f.getForceGroup() for f in system.getForces()} & set(_GROUPS))
        if taken:
            raise ValueError(f"force group {taken[0]} is in use; 29, 30 and 31 must be free")
        roles = particle_roles(topology, system)
        opened = open_propagator(propagator, roles.molecule)
        refuse_constraints(system, opened, "refuse")
        refuse_thermostat(system, opened)
        super().__init__(opened.frame_interval_fs * PS_PER_FS)
        relay = _Relay(roles, opened)
        relayed = (relay.take_velocities, relay.displacements, relay.velocities)
        periodic = any(roles.molecule.pbc)
        for group, answer in zip(_GROUPS, relayed, strict=True):
            force = openmm.PythonForce(_Call(answer))
            force.setForceGroup(group)
            force.setUsesPeriodicBoundaryConditions(periodic)
            system.addForce(force)
        self.setIntegrationForceGroups(set(range(_GROUPS[0])))
        for name in ("x0", "z", "dx", "w"):
            self.addPerDofVariable(name, 0.0)
        self.addUpdateContextState()
        for variable, value in (
            ("x0", "x"), ("x", "v"), ("z", f"f{_GROUPS[0]}"), ("x", "x0"),
            ("dx", f"f{_GROUPS[1]}"), ("w", f"f{_GROUPS[2]}"), ("x", "x+dx"), ("v", "w"),
        ):  # fmt: skip
            self.addComputePerDof(variable, value)


class _Call:
    """One of the hidden forces, as OpenMM calls it; OpenMM pickles it at once."""

    def __init__(self, answer: Callable[[openmm.State], Array]) -> None:
        self._answer = answer

    def __call__(self, state: openmm.State) -> tuple[float, Array]:
        """Return no energy, and what stands for forces, `(n_particles, 3)`."""
        return 0.0, self._answer(state)

    def __reduce__(self) -> tuple[Callable[[], Callable[[openmm.State], NoReturn]], tuple[()]]:
        """Keep networks out of OpenMM's copies; a copy says that it cannot work."""
        return _copy, ()


def _copy() -> Callable[[openmm.State], NoReturn]:
    """Stand in for a hidden force in a copied system. Raising here would crash OpenMM."""
    return _refuse


def _refuse(state: openmm.State) -> NoReturn:
    """Say that a system with the hidden forces is of no use copied."""
    raise ValueError(
        "a system with the hidden forces of a SegmentIntegrator does not work when it is copied or "
        "loaded; make the system again, and a SegmentIntegrator for it"
    )


class _Relay:
    """Puts positions and velocities together, asks the propagator, hands out the frame."""

    def __init__(self, roles: ParticleRoles, propagator: Propagator) -> None:
        self._roles, self._propagator = roles, propagator
        self._v: Array = np.zeros((roles.n_particles, 3))
        self._new_v: Array = self._v

    def take_velocities(self, state: openmm.State) -> Array:
        """Remember what stands where positions are: velocities, nm/ps."""
        self._v = positions_nm(state)
        return np.zeros_like(self._v)

    def displacements(self, state: openmm.State) -> Array:
        """Make the frame that follows; return by how much atoms move, nm."""
        roles = self._roles
        x = positions_nm(state)
        v = self._v[roles.atoms] / _VELOCITY
        v[roles.frozen] = 0.0
        cell = None
        if any(roles.molecule.pbc):
            cell = torch.tensor(box_nm(state), dtype=torch.float64)[None] / NM_PER_A
        start = State(
            roles.molecule,
            torch.from_numpy(x[roles.atoms] / NM_PER_A)[None],
            torch.from_numpy(v)[None],
            state.getTime()._value / PS_PER_FS,
            cell,
        )
        segment = self._propagator.advance(start, 1)
        if not bool(finite_frames(segment).all()):
            raise ValueError(f"the frame after {start.time_fs:g} fs is not finite")
        moved, self._new_v = np.zeros((2, roles.n_particles, 3))
        shift = segment.positions[0, 0] - start.positions[0]
        moved[roles.atoms] = shift.double().numpy() * NM_PER_A
        self._new_v[roles.atoms] = segment.velocities[0, 0].double().numpy() * _VELOCITY
        return moved

    def velocities(self, state: openmm.State) -> Array:
        """Return the velocities of that frame, nm/ps."""
        return self._new_v
