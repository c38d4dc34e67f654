"""Learned molecular dynamics inside the engines people already use.

This is the public door: `from egno_md import Molecule, State, load_bundle`. Names are loaded
when they are first used, so that `import egno_md` itself is quick and brings no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from egno_md.bonds import guess_bonds as guess_bonds
    from egno_md.bundle import Bundle as Bundle
    from egno_md.bundle import build_model as build_model
    from egno_md.bundle import load_bundle as load_bundle
    from egno_md.bundle import save_bundle as save_bundle
    from egno_md.bundle_card import BundleCard as BundleCard
    from egno_md.calculators.escn_calculator import ESCNCalculator as ESCNCalculator
    from egno_md.calculators.openmm_force import openmm_force as openmm_force
    from egno_md.calculators.potential_from_xtb import XTBPotential as XTBPotential
    from egno_md.calculators.segment_dynamics import SegmentDynamics as SegmentDynamics
    from egno_md.calculators.segment_force import SegmentForceCalculator as SegmentForceCalculator
    from egno_md.calculators.segment_simulation import SegmentSimulation as SegmentSimulation
    from egno_md.config import RunConfig as RunConfig
    from egno_md.config import TrainConfig as TrainConfig
    from egno_md.data.structures import read_structure as read_structure
    from egno_md.propagators.bond_constraints import BondConstraints as BondConstraints
    from egno_md.propagators.classical import Langevin as Langevin
    from egno_md.propagators.classical import VelocityVerlet as VelocityVerlet
    from egno_md.propagators.constrained_langevin import (
        ConstrainedLangevin as ConstrainedLangevin,
    )
    from egno_md.propagators.direct_force_potential import (
        DirectForcePotential as DirectForcePotential,
    )
    from egno_md.propagators.direct_force_potential import load_potential as load_potential
    from egno_md.propagators.distance_potential import DistancePotential as DistancePotential
    from egno_md.propagators.escn_potential import ESCNPotential as ESCNPotential
    from egno_md.propagators.guarded import GuardedPropagator as GuardedPropagator
    from egno_md.propagators.hydrogen_masses import heavy_hydrogens as heavy_hydrogens
    from egno_md.propagators.learned import LearnedPropagator as LearnedPropagator
    from egno_md.propagators.metropolised import Metropolised as Metropolised
    from egno_md.propagators.multiple_time_step import Correction as Correction
    from egno_md.propagators.multiple_time_step import MultipleTimeStep as MultipleTimeStep
    from egno_md.propagators.multiple_time_step import (
        MultipleTimeStepLangevin as MultipleTimeStepLangevin,
    )
    from egno_md.propagators.parareal import Parareal as Parareal
    from egno_md.propagators.rest_start_force import RestStartForce as RestStartForce
    from egno_md.propagators.thermostat import Thermostatted as Thermostatted
    from egno_md.roles import EnergyForces as EnergyForces
    from egno_md.roles import Judge as Judge
    from egno_md.roles import Potential as Potential
    from egno_md.roles import Propagator as Propagator
    from egno_md.roles import Verdict as Verdict
    from egno_md.segment import Event as Event
    from egno_md.segment import MadeBy as MadeBy
    from egno_md.segment import Segment as Segment
    from egno_md.state import Molecule as Molecule
    from egno_md.state import State as State
    from egno_md.state import maxwell_boltzmann as maxwell_boltzmann
    from egno_md.trajectories.ensemble_judge import EnsembleJudge as EnsembleJudge
    from egno_md.trajectories.generate import generate as generate
    from egno_md.trajectories.judges import BondJudge as BondJudge
    from egno_md.trajectories.judges import EnergyJudge as EnergyJudge
    from egno_md.trajectories.mdtraj_objects import state_from_mdtraj as state_from_mdtraj
    from egno_md.trajectories.mdtraj_objects import to_mdtraj as to_mdtraj
    from egno_md.trajectories.store_reader import TrajectoryReader as TrajectoryReader

__version__ = "0.1.0"

_HOMES: Final = {
    "guess_bonds": "bonds",
    "Bundle": "bundle",
    "build_model": "bundle",
    "load_bundle": "bundle",
    "save_bundle": "bundle",
    "BundleCard": "bundle_card",
    "openmm_force": "calculators.openmm_force",
    "ESCNCalculator": "calculators.escn_calculator",
    "XTBPotential": "calculators.potential_from_xtb",
    "SegmentDynamics": "calculators.segment_dynamics",
    "SegmentForceCalculator": "calculators.segment_force",
    "SegmentSimulation": "calculators.segment_simulation",
    "RunConfig": "config",
    "TrainConfig": "config",
    "read_structure": "data.structures",
    "BondConstraints": "propagators.bond_constraints",
    "Langevin": "propagators.classical",
    "VelocityVerlet": "propagators.classical",
    "ConstrainedLangevin": "propagators.constrained_langevin",
    "heavy_hydrogens": "propagators.hydrogen_masses",
    "DirectForcePotential": "propagators.direct_force_potential",
    "load_potential": "propagators.direct_force_potential",
    "DistancePotential": "propagators.distance_potential",
    "ESCNPotential": "propagators.escn_potential",
    "GuardedPropagator": "propagators.guarded",
    "LearnedPropagator": "propagators.learned",
    "Correction": "propagators.multiple_time_step",
    "MultipleTimeStep": "propagators.multiple_time_step",
    "MultipleTimeStepLangevin": "propagators.multiple_time_step",
    "Parareal": "propagators.parareal",
    "Metropolised": "propagators.metropolised",
    "RestStartForce": "propagators.rest_start_force",
    "Thermostatted": "propagators.thermostat",
    "EnergyForces": "roles",
    "Judge": "roles",
    "Potential": "roles",
    "Propagator": "roles",
    "Verdict": "roles",
    "Event": "segment",
    "MadeBy": "segment",
    "Segment": "segment",
    "Molecule": "state",
    "State": "state",
    "maxwell_boltzmann": "state",
    "EnsembleJudge": "trajectories.ensemble_judge",
    "generate": "trajectories.generate",
    "BondJudge": "trajectories.judges",
    "EnergyJudge": "trajectories.judges",
    "state_from_mdtraj": "trajectories.mdtraj_objects",
    "to_mdtraj": "trajectories.mdtraj_objects",
    "TrajectoryReader": "trajectories.store_reader",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module it lives in."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names along with the usual ones."""
    return sorted({*globals(), *_HOMES})
