"""The ways to sample that `egno-md benchmark acceleration` holds side by side.

Every row is a propagator with the replicas that it moves and the time between the frames that are
looked at: about 32 fs, or one proposal. Rows with a bath share its temperature and friction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from egno_md.benchmarks.energy_rescaled import EnergyRescaled
from egno_md.benchmarks.openmm_dynamics import OpenMMLangevin
from egno_md.benchmarks.rollout_subject import Subject
from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.bond_constraints import BondConstraints
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.constrained_langevin import ConstrainedLangevin
from egno_md.propagators.hydrogen_masses import bonds_to_hydrogen, heavy_hydrogens
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.metropolised import Metropolised
from egno_md.propagators.multiple_time_step import MultipleTimeStepLangevin
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import Potential, Propagator
from egno_md.state import Molecule, State
from egno_md.trajectories.metropolised_run import frames_of
from egno_md.trajectories.run_setup import seeded

#: Time between the frames of rows that do not propose, about, fs.
LOOK_FS: Final = 32.0

#: Mass of hydrogens in the rows with constraints, amu.
HYDROGEN_MASS_AMU: Final = 3.0

#: Inner and outer step of multiple time steps, fs.
INNER_FS: Final = 0.5
OUTER_FS: Final = 2.0

#: Step of the cheap potential where it proposes, fs.
CHEAP_STEP_FS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What rows are made of.

    Attributes:
        subject: bundle and true potential.
        cheap: cheap potential.
        cheap_cpu_s: processor time of its fit, None if it came from elsewhere.
        temperature_K: temperature of the bath.
        friction_per_ps: its friction.
        seed: of everything random.
        bond_mean_A: `(n_bonds,)`, means of the reference, Å.
        compiled: whether the network is compiled.
    """

    subject: Subject
    cheap: Potential
    cheap_cpu_s: float | None
    temperature_K: float
    friction_per_ps: float
    seed: int
    bond_mean_A: Tensor
    compiled: bool

    def bath(self, row: str) -> tuple[float, float, torch.Generator]:
        """Temperature, friction and a source of noise of a row's own."""
        return self.temperature_K, self.friction_per_ps, seeded(self.seed, f"{row} bath")

    @property
    def network_cpu_s(self) -> float | None:
        """Processor time that training the network took, where the card says so."""
        spent = self.subject.bundle.card.training.get("cpu_seconds")
        return float(spent) if isinstance(spent, int | float) else None


@dataclass(frozen=True, slots=True)
class Contestant:
    """A row, ready to run.

    Attributes:
        propagator: moves the replicas.
        n_frames: of its frames that make one frame that is looked at.
        molecule: what moves; masses may differ.
        training_cpu_s: what had to be spent before, s; 0 without training, None if unknown.
        sampler: the part that accepts and rejects, or None.
        equal_temperatures: whether atoms share 3 degrees of freedom each, so that temperatures
            of elements mean something.
    """

    propagator: Propagator
    n_frames: int
    molecule: Molecule
    training_cpu_s: float | None = 0.0
    sampler: Metropolised | None = None
    equal_temperatures: bool = True

    @property
    def interval_fs(self) -> float:
        """Time between the frames that are looked at."""
        return self.n_frames * self.propagator.frame_interval_fs

    def start(self, state: State) -> State:
        """The replicas with this row's masses; velocities as warm as before."""
        old, new = state.molecule.masses, self.molecule.masses
        v = state.velocities * (old / new).sqrt()[:, None].to(state.velocities)
        return State(self.molecule, state.positions, v)


def _langevin(step_fs: float) -> Callable[[Bench, str], Contestant]:
    def make(bench: Bench, row: str) -> Contestant:
        look = step_fs * round(LOOK_FS / step_fs)
        made = Langevin(bench.subject.potential, step_fs, look, 1, *bench.bath(row))
        return Contestant(made, 1, bench.subject.start.molecule)

    return make


def _verlet(step_fs: float) -> Callable[[Bench, str], Contestant]:
    """Velocity Verlet of about 32 fs, with the bath between."""

    def make(bench: Bench, row: str) -> Contestant:
        look = step_fs * round(LOOK_FS / step_fs)
        verlet = VelocityVerlet(bench.subject.potential, step_fs, look, 1)
        return Contestant(Thermostatted(verlet, *bench.bath(row)), 1, bench.subject.start.molecule)

    return make


def _fixed_bonds(bench: Bench) -> BondConstraints:
    """All bonds to hydrogen, at their mean lengths, of the molecule with heavy hydrogens."""
    molecule = heavy_hydrogens(bench.subject.start.molecule, HYDROGEN_MASS_AMU)
    held = bonds_to_hydrogen(molecule)
    return BondConstraints(molecule, molecule.bonds[held], bench.bond_mean_A[held])


def _constrained(bench: Bench, row: str) -> Contestant:
    bonds = _fixed_bonds(bench)
    made = ConstrainedLangevin(bench.subject.potential, bonds, 4.0, LOOK_FS, 1, *bench.bath(row))
    return Contestant(made, 1, bonds.molecule, equal_temperatures=False)


def _by_openmm(step_fs: float, *, fixed: bool) -> Callable[[Bench, str], Contestant]:
    """Langevin dynamics that OpenMM integrates."""

    def make(bench: Bench, row: str) -> Contestant:
        potential = bench.subject.potential
        if not isinstance(potential, OpenMMPotential):
            raise ValueError(_no_openmm(row, bench.subject.potential_name))
        bonds = _fixed_bonds(bench) if fixed else None
        molecule = bench.subject.start.molecule if bonds is None else bonds.molecule
        look, bath = step_fs * round(LOOK_FS / step_fs), bench.bath(row)
        made = OpenMMLangevin(potential, molecule, step_fs, look, 1, *bath, constraints=bonds)
        return Contestant(made, 1, molecule, equal_temperatures=not fixed)

    return make


def _two_steps(bench: Bench, row: str) -> Contestant:
    made = MultipleTimeStepLangevin(
        bench.cheap, bench.subject.potential, INNER_FS, OUTER_FS, LOOK_FS, 1, *bench.bath(row)
    )
    return Contestant(made, 1, bench.subject.start.molecule, bench.cheap_cpu_s)


def _network(bench: Bench) -> LearnedPropagator:
    return LearnedPropagator.from_bundle(
        bench.subject.bundle,
        bench.subject.start.molecule,
        compile=Compiling() if bench.compiled else False,
    )


def _near(proposal: Propagator, length_fs: float) -> int:
    """Frames of a proposal of about some length."""
    unit = proposal.frame_interval_fs
    return frames_of(proposal, unit * max(1, round(length_fs / unit)))


def _metropolised(
    bench: Bench, row: str, proposal: Propagator, length_fs: float, training_cpu_s: float | None
) -> Contestant:
    sampler = Metropolised(
        proposal,
        bench.subject.potential,
        *bench.bath(row),
        proposal_frames=_near(proposal, length_fs),
    )
    molecule = bench.subject.start.molecule
    return Contestant(sampler, 1, molecule, training_cpu_s, sampler)


def _by_network(length_fs: float) -> Callable[[Bench, str], Contestant]:
    return lambda bench, row: _metropolised(
        bench, row, _network(bench), length_fs, bench.network_cpu_s
    )


def _by_cheap(length_fs: float) -> Callable[[Bench, str], Contestant]:
    def make(bench: Bench, row: str) -> Contestant:
        verlet = VelocityVerlet(bench.cheap, CHEAP_STEP_FS, length_fs, 1)
        return _metropolised(bench, row, verlet, length_fs, bench.cheap_cpu_s)

    return make


def _cheap_alone(bench: Bench, row: str) -> Contestant:
    look = 0.5 * round(LOOK_FS / 0.5)
    made = Langevin(bench.cheap, 0.5, look, 1, *bench.bath(row))
    return Contestant(made, 1, bench.subject.start.molecule, bench.cheap_cpu_s)


def _rollout(bench: Bench, row: str) -> Contestant:
    network = _network(bench)
    made = Thermostatted(network, *bench.bath(row))
    molecule = bench.subject.start.molecule
    return Contestant(made, _near(network, LOOK_FS), molecule, bench.network_cpu_s)


def _rescaled(bench: Bench, row: str) -> Contestant:
    network = _network(bench)
    made = EnergyRescaled(network, bench.subject.potential)
    molecule = bench.subject.start.molecule
    return Contestant(made, _near(network, LOOK_FS), molecule, bench.network_cpu_s)


#: The row that others are held against.
YARDSTICK: Final = "langevin-0.5"

#: The row whose effective samples per ps stand in for the yardstick's where those are too few.
LENDER: Final = "cheap-alone"

#: The yardstick's dynamics, integrated by OpenMM; where it is, it stands in first.
TWIN: Final = "openmm-0.5"

#: The rows that OpenMM integrates; they need a true potential of OpenMM.
BY_OPENMM: Final = (TWIN, "openmm-4")

#: What each row is called in the table, and how it is made.
ROWS: Final[Mapping[str, tuple[str, Callable[[Bench, str], Contestant]]]] = {
    YARDSTICK: ("Langevin, 0.5 fs", _langevin(0.5)),
    "langevin-1": ("Langevin, 1 fs", _langevin(1.0)),
    "constrained-4": (
        f"Langevin, 4 fs, hydrogens of {HYDROGEN_MASS_AMU:g} amu on fixed bonds",
        _constrained,
    ),
    TWIN: ("OpenMM's own Langevin, 0.5 fs", _by_openmm(0.5, fixed=False)),
    "openmm-4": (
        f"OpenMM's own Langevin, 4 fs, hydrogens of {HYDROGEN_MASS_AMU:g} amu on fixed bonds",
        _by_openmm(4.0, fixed=True),
    ),
    "mts": (f"multiple time steps, cheap {INNER_FS:g} fs, true {OUTER_FS:g} fs", _two_steps),
    "metropolised-32": ("Metropolised, network, 32 fs", _by_network(32.0)),
    "metropolised-256": ("Metropolised, network, 256 fs", _by_network(256.0)),
    "cheap-32": ("Metropolised, cheap potential, 32 fs", _by_cheap(32.0)),
    "cheap-256": ("Metropolised, cheap potential, 256 fs", _by_cheap(256.0)),
    LENDER: ("Langevin, 0.5 fs, cheap potential alone", _cheap_alone),
    "rollout": ("network, unguarded", _rollout),
    "rescaled": ("network, energy rescaled, no bath", _rescaled),
    "verlet-2": ("Verlet, 2 fs, bath every 32 fs", _verlet(2.0)),
    "verlet-3": ("Verlet, 3 fs, bath every 33 fs", _verlet(3.0)),
    "verlet-4": ("Verlet, 4 fs, bath every 32 fs", _verlet(4.0)),
}


def rows_for(asked: Sequence[str], subject: Subject) -> tuple[str, ...]:
    """Return the rows to run, in the order of the table; the yardstick is always one.

    Args:
        asked: names of rows; none: all that the true potential allows.
        subject: has the true potential.

    Raises:
        ValueError: if a row that OpenMM integrates is asked for and the potential is none of
            OpenMM's.
    """
    allowed = isinstance(subject.potential, OpenMMPotential)
    for row in asked:
        if row in BY_OPENMM and not allowed:
            raise ValueError(_no_openmm(row, subject.potential_name))
    chosen = asked or [row for row in ROWS if allowed or row not in BY_OPENMM]
    return tuple(row for row in ROWS if row in chosen or row == YARDSTICK)


def _no_openmm(row: str, potential: str) -> str:
    return (
        f"row {row!r} is integrated by OpenMM and needs a true potential of OpenMM, such as "
        f"--potentials openmm:amber14; given is {potential!r}"
    )
