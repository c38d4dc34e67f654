"""`openmm.app.Simulation` whose step is one predicted frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import openmm
from openmm import app, unit

from egno_md.bundle import Bundle
from egno_md.calculators.context_energy_judge import ContextEnergyJudge
from egno_md.calculators.context_frames import ContextFrames
from egno_md.calculators.context_integrator import (
    ContextIntegrator,
    move_velocities,
    steps_per_frame,
)
from egno_md.calculators.openmm_baths import Baths
from egno_md.calculators.openmm_molecule import particle_roles
from egno_md.calculators.segment_checkpoint import SegmentCheckpoint, write_whole
from egno_md.calculators.segment_scheme import (
    open_propagator,
    refuse_constraints,
    refuse_thermostat,
    scheme_of,
)
from egno_md.calculators.segment_steps import SegmentSteps
from egno_md.propagators.energy_frames import EnergyFrames
from egno_md.propagators.guarded import GuardedPropagator, GuardStatistics
from egno_md.roles import Judge, Propagator
from egno_md.segment import Event, MadeBy
from egno_md.state import Molecule
from egno_md.units import KJ_PER_MOL


class SegmentSimulation(app.Simulation):  # type: ignore[misc]
    """A simulation in OpenMM that goes from frame to frame of segments.

    Reporters, `step`, `runForClockTime`, checkpoints, thermostats, barostats and minimisation are
    those of OpenMM. The forces of the system move nothing: they give the energies that reporters
    ask for and the guard's limit, and drive the fallback.

    Attributes:
        propagator: makes the segments: the one given, with judges and fallback around it.
        molecule: the atoms of the system.
        events: what the guard did, in order.
    """

    def __init__(
        self,
        topology: app.Topology,
        system: openmm.System,
        propagator: str | Path | Bundle | Propagator,
        *,
        guard: Judge | Sequence[Judge] = (),
        energy_limit: unit.Quantity | float | None = None,
        energy_frames: EnergyFrames = "auto",
        fallback: openmm.Integrator | None = None,
        segments_per_proposal: int = 1,
        recover_after: int | None = None,
        constraints: Literal["refuse", "project"] = "refuse",
        platform: openmm.Platform | None = None,
        platformProperties: dict[str, str] | None = None,
        state: str | None = None,
    ) -> None:
        """Set up a context.

        Args:
            topology: with elements and bonds.
            system: made from it.
            propagator: name, path or bundle of an EGNO, or a propagator made for
                `molecule_from_openmm(topology, system)`.
            guard: judges of every segment, cheap ones first.
            energy_limit: largest change of the system's total energy over a segment, kJ/mol.
            energy_frames: frames the system is asked for: "last", "all", "auto", see `EnergyJudge`.
            fallback: makes the frames that are not accepted or not finite.
            segments_per_proposal: segments that are judged together; thermostats act between.
            recover_after: a rejection halves the next proposals, so many accepted ones undo it;
                None: all are full.
            constraints: "project" moves frames onto the system's constraints; "refuse" refuses
                a system that has some.
            platform: platform of OpenMM.
            platformProperties: of the platform.
            state: file saved by `saveState` to start from.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if the parts do not fit together, naming those that do not.
        """
        roles = particle_roles(topology, system)
        fast = open_propagator(propagator, roles.molecule)
        refuse_constraints(system, fast, constraints)
        refuse_thermostat(system, fast)
        interval_fs = fast.frame_interval_fs
        baths = Baths(system, interval_fs)
        compound = openmm.CompoundIntegrator()
        compound.addIntegrator(baths.idle)
        if fallback is not None:
            steps_per_frame(fallback, interval_fs)
            compound.addIntegrator(fallback)
        super().__init__(topology, system, compound, platform, platformProperties, state)
        self._usesPBC = any(roles.molecule.pbc)
        frames = ContextFrames(self.context, roles)
        judges = [guard] if isinstance(guard, Judge) else list(guard)
        if energy_limit is not None:
            judges.append(ContextEnergyJudge(frames, _in_eV(energy_limit), energy_frames))
        safe = None
        if fallback is not None:
            safe = ContextIntegrator(frames, baths, fallback, 1, interval_fs, fast.n_frames)
        self.molecule: Molecule = roles.molecule
        self.events: list[Event] = []
        many = (segments_per_proposal, recover_after)
        self.propagator = scheme_of(fast, frames, judges, safe, constraints, *many)
        # The integrator of the context goes on under this one; see SegmentSteps.
        self.integrator = SegmentSteps(frames, self.propagator, baths, self.events.extend)

    @property
    def made_by(self) -> MadeBy:
        """Who made the frame that the context shows."""
        return self.integrator.made_by

    def statistics(self) -> GuardStatistics | None:
        """Frames by maker and cuts by judge so far, or None without a guard."""
        if isinstance(self.propagator, GuardedPropagator):
            return self.propagator.statistics()
        return None

    def velocities_from_leapfrog(self, timestep: unit.Quantity | float) -> None:
        """Take the context's velocities half a step further, to the time of the positions.

        To be called once after positions and velocities were taken over from a simulation with
        `VerletIntegrator`, `NoseHooverIntegrator`, or one of the Langevin integrators.

        Args:
            timestep: of that simulation; a number is in ps.
        """
        move_velocities(self.integrator.frames, openmm.VerletIntegrator(timestep), 0.5)

    def saveCheckpoint(self, file: str | IO[bytes]) -> None:
        """Save all that the next frames depend on, an unfinished segment too.

        Args:
            file: name, replaced only when the new one is whole; or something to write to.
        """
        about, tensors = self.integrator.restart_state()
        data = SegmentCheckpoint(self.context.createCheckpoint(), about, tensors).to_bytes()
        if isinstance(file, str):
            write_whole(data, file)
        else:
            file.write(data)

    def loadCheckpoint(self, file: str | IO[bytes]) -> None:
        """Go on exactly from a checkpoint of the same simulation on the same platform.

        Args:
            file: name, or something to read from.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the checkpoint is damaged or of another simulation.
        """
        data = Path(file).read_bytes() if isinstance(file, str) else file.read()
        saved = SegmentCheckpoint.from_bytes(data)
        self.integrator.check(saved.about)
        self.integrator.restore(saved.context, saved.about, saved.tensors)

    def loadState(self, file: str | IO[str]) -> None:
        """Load a state; what was left of a segment is thrown away.

        Args:
            file: name, or something to read from.
        """
        super().loadState(file)
        self.integrator.forget()


def _in_eV(energy: Any) -> float:  # noqa: ANN401
    """Return an energy in eV; a number is in kJ/mol."""
    if unit.is_quantity(energy):
        energy = energy.value_in_unit(unit.kilojoule_per_mole)
    return float(energy) * KJ_PER_MOL
