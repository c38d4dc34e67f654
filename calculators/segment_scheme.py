"""From what a user gives to the propagator of a segment simulation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import openmm

from egno_md.bonds import constitution
from egno_md.bundle import Bundle, load_bundle
from egno_md.calculators.constrained_frames import ConstrainedFrames
from egno_md.calculators.context_frames import ContextFrames
from egno_md.calculators.context_integrator import ContextIntegrator
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.own_baths import refuse_second_bath, refuse_still_centre
from egno_md.propagators.same_masses import wrong_mass
from egno_md.roles import Judge, Propagator
from egno_md.state import Molecule


def open_propagator(propagator: str | Path | Bundle | Propagator, molecule: Molecule) -> Propagator:
    """Load a bundle for a molecule, or check that a propagator is for it.

    Args:
        propagator: name, path or bundle of kind "egno", or any propagator.
        molecule: of the simulated system.

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if the bundle does not suit the molecule, or the propagator was made for
            atoms of another kind or mass, naming the atom.
    """
    if isinstance(propagator, str | Path | Bundle):
        bundle = (
            propagator if isinstance(propagator, Bundle) else load_bundle(propagator, kind="egno")
        )
        bundle.check_elements(molecule)
        learned = LearnedPropagator.from_bundle(bundle, molecule)
        if bundle.was_trained_on(molecule) is False:
            warnings.warn(
                f"bundle {bundle.name!r} was trained on {', '.join(bundle.card.molecules)} and "
                f"not on {constitution(molecule.numbers, molecule.bonds)}: nothing it says here "
                "was tested",
                stacklevel=3,
            )
        return learned
    if found := wrong_mass(propagator, molecule):
        atom, mine, theirs = found
        raise ValueError(
            f"atom {atom} has mass {mine:g} amu in the system and {theirs:g} amu in the "
            "propagator; make the propagator for molecule_from_openmm(topology, system)"
        )
    return propagator


def refuse_constraints(system: openmm.System, propagator: Propagator, policy: str) -> None:
    """Refuse a system with constraints unless something was said about them.

    Args:
        system: to simulate.
        propagator: one that keeps constraints says so: `keeps_constraints = True`.
        policy: "refuse" or "project".

    Raises:
        ValueError: naming the first constraint, or if the policy is unknown.
    """
    if policy not in ("refuse", "project"):
        raise ValueError(f"constraints is {policy!r}; allowed are 'refuse' and 'project'")
    count = system.getNumConstraints()
    keeps = getattr(propagator, "keeps_constraints", False) is True
    if policy == "refuse" and count and not keeps:
        i, j, length = system.getConstraintParameters(0)
        raise ValueError(
            f"the system has {count} constraints, the first of particles {i} and {j} at "
            f"{length._value:g} nm, and a segment moves all distances; make the system with "
            "constraints=None and rigidWater=False, or give constraints='project' to move every "
            "frame onto the constraints, which takes the energy out of them"
        )


def refuse_thermostat(system: openmm.System, propagator: Propagator) -> None:
    """Refuse a thermostat, or what holds the centre of mass, under a propagator with a bath.

    Args:
        system: to simulate; a barostat is no bath of this kind.
        propagator: makes the segments.

    Raises:
        ValueError: naming both.
    """
    if any(isinstance(force, openmm.AndersenThermostat) for force in system.getForces()):
        refuse_second_bath(
            propagator, "the system's AndersenThermostat", "take the thermostat out of the system"
        )
    if any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces()):
        refuse_still_centre(
            propagator,
            "the system's CMMotionRemover",
            "make the system with removeCMMotion=False, or Metropolised with zero_momentum=True",
        )


def scheme_of(
    propagator: Propagator,
    frames: ContextFrames,
    judges: Sequence[Judge],
    safe: ContextIntegrator | None,
    constraints: Literal["refuse", "project"],
    segments_per_proposal: int = 1,
    recover_after: int | None = None,
) -> Propagator:
    """Put constraints, judges and the fallback around a propagator.

    Args:
        propagator: makes the frames.
        frames: of the context.
        judges: of every segment.
        safe: makes the frames that are not accepted.
        constraints: "project" moves every frame onto the system's constraints.
        segments_per_proposal: segments that are judged together, see `GuardedPropagator`.
        recover_after: accepted proposals that undo the halving by a rejection; None: no halving.

    Raises:
        ValueError: if there is something for a guard and no fallback, two judges have one name,
            or a propagator with a bath would be guarded.
    """
    if frames.has_constraints and constraints == "project":
        propagator = ConstrainedFrames(propagator, frames)
    if safe is not None:
        return GuardedPropagator(
            propagator,
            safe,
            judges,
            segments_per_proposal=segments_per_proposal,
            recover_after=recover_after,
        )
    if judges or (segments_per_proposal, recover_after) != (1, None):
        raise ValueError(
            "a guard needs a fallback for what it rejects; give, for example, "
            "fallback=LangevinMiddleIntegrator(300*kelvin, 1/picosecond, 0.5*femtosecond)"
        )
    return propagator
