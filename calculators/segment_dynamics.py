"""A driver of ASE whose step is one frame of a predicted segment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.md import MolecularDynamics
from numpy.typing import NDArray
from torch import Tensor

from egno_md.ase_atoms import state_from_atoms
from egno_md.calculators.evaluation_options import checked_threads, threads
from egno_md.calculators.held_atoms import held_by, without_held_motion
from egno_md.calculators.segment_parts import (
    USUAL_COUPLING_PER_PS,
    Guard,
    LoggerWithoutEnergies,
    Maker,
    Thermostat,
    bath_between,
    checked_start,
    guarded,
    learned_or_given,
    own_copy,
    potential_behind,
    refuse_unguarded,
)
from egno_md.calculators.segment_restart import checked_record, read_record, write_record
from egno_md.propagators.energy_frames import EnergyFrames
from egno_md.propagators.guarded import GuardedPropagator, GuardStatistics, finite_frames, leading
from egno_md.propagators.own_baths import has_bath, refuse_second_bath
from egno_md.propagators.restart import named_under, taken_from
from egno_md.roles import Judge, Propagator
from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import State, kinetic_energy
from egno_md.units import BOLTZMANN_EV_PER_K, FS_PER_ASE_TIME

#: Of what a pending segment is made in a restart record.
_FRAMES = ("times_fs", "positions", "velocities", "made_by", "potential_energies")


class SegmentDynamics(MolecularDynamics):
    """`SegmentDynamics(atoms, "ethanol-egno", temperature_K=300).run(1000)`: 1000 frames.

    A segment is made in one go and handed out frame by frame, so that whatever works with a
    driver of `ase.md` works here: `attach`, `run`, `irun`, loggers, trajectories. Runs may be
    cut anywhere: `run(20)` and `run(7)` is `run(27)`. The bath acts between segments. Whoever
    changes positions, momenta or cell between two steps starts a new segment.

    A calculator on the atoms is asked only where an observer or logger is due. With a guard and
    no calculator, the guard becomes the calculator.
    """

    _segment: Segment | None
    _next: int
    _n_finite: int
    _places: list[Tensor]
    _speeds: list[Tensor]
    _pushes: NDArray[np.float64]
    _makers: list[MadeBy]

    def __init__(
        self,
        atoms: Atoms,
        propagator: Maker,
        *,
        temperature_K: float | None = None,
        thermostat: Thermostat | None = None,
        coupling_per_ps: float = USUAL_COUPLING_PER_PS,
        seed: int | torch.Generator = 0,
        guard: Guard | None = None,
        energy_limit_eV: float | None = 0.1,
        energy_frames: EnergyFrames = "auto",
        judges: Sequence[Judge] = (),
        fallback: Propagator | None = None,
        fallback_timestep_fs: float = 0.5,
        segments_per_proposal: int = 1,
        recover_after: int | None = None,
        horizon_fs: float | None = None,
        bonds: Sequence[tuple[int, int]] | Tensor | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype | None = None,
        n_threads: int | None = None,
        record_forces: bool = True,
        trajectory: object = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        append_trajectory: bool = False,
    ) -> None:
        """Set up a run.

        Args:
            atoms: what moves; its momenta are the start.
            propagator: bundle of kind "egno" (name, folder, or as read), or any propagator.
            temperature_K: temperature of the bath; None for constant energy.
            thermostat: "langevin" (the usual one), "bussi" or "andersen".
            coupling_per_ps: friction of Langevin, 1/tau of Bussi, collisions per atom of
                Andersen.
            seed: of the bath's noise, or a generator.
            guard: bundle of kind "escn", ASE calculator or potential that judges segments.
            energy_limit_eV: largest change of the total energy over a segment by the guard.
            energy_frames: whose energy is asked for: "last", "all", "auto", see `EnergyJudge`.
            judges: others, asked before the energy.
            fallback: makes again what is rejected; velocity Verlet with the guard when None.
            fallback_timestep_fs: longest step of that.
            segments_per_proposal: segments that are judged together; the bath acts between.
            recover_after: a rejection halves the next proposals, so many accepted ones undo it.
            horizon_fs: length of a segment; what the bundle was trained for when None.
            bonds: pairs of atoms; guessed from the positions when None.
            device: where a bundle computes.
            dtype: "float32" or "float64" for a bundle; float32 when None.
            n_threads: CPU threads while it computes; None leaves torch's setting.
            record_forces: whether observers find forces, or energies only.
            trajectory: as in `ase.md`.
            logfile: as in `ase.md`; without a calculator potential energies are nan.
            loginterval: as in `ase.md`.
            append_trajectory: as in `ase.md`: keep what is in the file, for a restart.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if atoms, constraints or options cannot be.
        """
        if not isinstance(atoms, Atoms):
            raise ValueError(f"SegmentDynamics moves ase.Atoms, got {type(atoms).__name__}")
        self._held = held_by(atoms)
        start = checked_start(atoms, bonds)
        self.molecule = self._held.pinned(start.molecule)
        self._masses = start.molecule.masses.numpy()
        self._mass_factors = self._masses[:, None] * FS_PER_ASE_TIME
        self.n_threads = checked_threads(n_threads)
        self._record_forces = record_forces
        fast = learned_or_given(
            propagator, self.molecule, horizon_fs=horizon_fs, device=device, dtype=dtype
        )
        self._held.refuse_unsuited(fast, self.molecule)
        self.propagator = fast
        options: dict[str, Any] = {
            "energy_limit_eV": energy_limit_eV,
            "energy_frames": energy_frames,
            "judges": tuple(judges),
            "fallback": fallback,
            "fallback_timestep_fs": fallback_timestep_fs,
            "segments_per_proposal": segments_per_proposal,
            "recover_after": recover_after,
        }
        if guard is None:
            refuse_unguarded(options, SegmentDynamics)
        else:
            potential, calculator = potential_behind(guard)
            self.propagator = guarded(fast, potential, **options)
            atoms.calc = calculator if atoms.calc is None else atoms.calc
        v = without_held_motion(self._held, start.molecule, start.velocities)
        moving = start.with_(velocities=v)
        self._choose_bath(fast, moving, temperature_K, thermostat, coupling_per_ps, seed)
        self._take(None)
        self._made_by = MadeBy.GIVEN
        #: What guards did so far.
        self.events: list[Event] = []
        super().__init__(
            atoms,
            self.propagator.frame_interval_fs * units.fs,
            trajectory,  # type: ignore[arg-type]
            None,
            loginterval,
            append_trajectory=append_trajectory,
        )
        self._put(own_copy(moving.positions[0]), own_copy(v[0]))
        if logfile:
            logger = LoggerWithoutEnergies(dyn=self, atoms=atoms, logfile=logfile, comm=self.comm)
            self.attach(self.closelater(logger), loginterval)  # type: ignore[no-untyped-call]

    def _choose_bath(
        self,
        fast: Propagator,
        start: State,
        temperature_K: float | None,
        thermostat: Thermostat | None,
        coupling_per_ps: float,
        seed: int | torch.Generator,
    ) -> None:
        """Make the bath between segments, if any, and count the degrees of freedom it leaves."""
        if temperature_K is not None:
            refuse_second_bath(fast, "the bath of SegmentDynamics", "leave temperature_K out")
        conserving = (temperature_K is None and not has_bath(fast)) or thermostat == "bussi"
        #: Degrees of freedom that share the kinetic energy.
        self.degrees_of_freedom = self._held.freedom(start, conserving)
        self._bath = bath_between(
            thermostat, temperature_K, coupling_per_ps, seed, self.degrees_of_freedom
        )
        bath = None if self._bath is None else thermostat or "langevin"
        self._settings = {"temperature_K": temperature_K, "thermostat": bath}

    @property
    def made_by(self) -> str:
        """Who made the frame at hand: "given", "network" or "integrator"."""
        return self._made_by.name.lower()

    @property
    def temperature_K(self) -> float:
        """Kinetic temperature of the frame at hand with the right degrees of freedom.

        ASE's own counts three for every atom without constraints, so it reads too low where
        momentum is zero and stays so.
        """
        v = self._velocities[None]
        kinetic = float(kinetic_energy(self.molecule, v)[0])
        return 2.0 * kinetic / (self.degrees_of_freedom * BOLTZMANN_EV_PER_K)

    def statistics(self) -> GuardStatistics | None:
        """What the guard did so far; None without one."""
        guard = self.propagator
        return guard.statistics() if isinstance(guard, GuardedPropagator) else None

    def todict(self) -> dict[str, Any]:
        """What trajectories note of the run."""
        settings = {k: v for k, v in self._settings.items() if v is not None}
        frames = {"frame_interval_fs": self.propagator.frame_interval_fs}
        frames["frames_per_segment"] = self.propagator.n_frames
        return {**super().todict(), **frames, **settings}  # type: ignore[no-untyped-call]

    def step(self, forces: object = None) -> None:
        """Move on by one frame.

        Raises:
            ValueError: if the frame is not finite, atoms were exchanged, constraints changed, or
                as the propagator does. The atoms stay at the last good frame.
        """
        segment = self._segment
        if segment is None or self._next >= len(self._makers) or self._edited():
            segment = self._planned()
            self._take(segment)
        k = self._next
        if k >= self._n_finite:
            raise ValueError(
                f"frame {self.nsteps + 1} ({float(segment.times_fs[k]):g} fs) is not finite: the "
                "propagator left what it was trained for; give a guard, or start elsewhere"
            )
        self._put(self._places[k], self._speeds[k], self._pushes[k])
        self._made_by = self._makers[k]
        self._next = k + 1

    def _take(self, segment: Segment | None) -> None:
        """Hand out this segment from its first frame on."""
        self._segment, self._next = segment, 0
        self._n_finite = 0
        if segment is not None:
            self._n_finite = int(leading(finite_frames(segment))[0])
            places, speeds = own_copy(segment.positions[0]), own_copy(segment.velocities[0])
            # All frames at once: what is left for a step is to copy.
            self._places, self._speeds = list(places), list(speeds)
            self._pushes = speeds.numpy() * self._mass_factors
            self._makers = [MadeBy(maker) for maker in segment.made_by[0].tolist()]

    def _planned(self) -> Segment:
        """Let the bath act and make a segment."""
        self._check_same_atoms()
        known = state_from_atoms(self.atoms, self.molecule)
        x, v = known.positions, known.velocities
        if not self._edited():
            # What atoms hold went through momenta and back; this has not.
            x, v = self._positions[None], self._velocities[None]
        v = without_held_motion(self._held, self.molecule, v)
        span_fs = self.propagator.n_frames * self.propagator.frame_interval_fs
        if self._bath is not None:
            v = self._bath.kicked(self.molecule, v, span_fs)
            v = without_held_motion(self._held, self.molecule, v)
        time_fs = self.nsteps * self.propagator.frame_interval_fs
        start = known.with_(positions=x, velocities=v, time_fs=time_fs)
        with threads(self.n_threads):
            segment = self.propagator.advance(start)
        self._held.check_kept(start, segment)
        self.events.extend(segment.events)
        return segment

    def _put(
        self, positions: Tensor, velocities: Tensor, momenta: NDArray[np.float64] | None = None
    ) -> None:
        """Give the atoms a frame, held atoms where they are, and remember what they got.

        All are `(n_atoms, 3)`, in Å, Å/fs and, if at hand, ASE's units; `own_copy` gave them.
        """
        self._positions, self._velocities = positions, velocities
        if held := list(self._held.atoms):
            positions[held] = torch.from_numpy(self.atoms.positions[held])
            velocities[held] = 0.0
        if held or momenta is None:
            momenta = velocities.numpy() * self._mass_factors
        self.atoms.set_positions(positions.numpy(), apply_constraint=self._held.centre)  # type: ignore[no-untyped-call]
        if self._held.centre:
            self._positions = torch.from_numpy(self.atoms.positions.copy())
        self.atoms.set_momenta(momenta, apply_constraint=False)  # type: ignore[no-untyped-call]
        self._given = self._bits()

    def _edited(self) -> bool:
        """Whether somebody changed the atoms since they got their last frame."""
        return self._bits() != self._given

    def _bits(self) -> tuple[bytes, ...]:
        """Positions, momenta and cell that the atoms have."""
        now = self.atoms
        momenta = now.arrays.get("momenta")
        p = b"" if momenta is None else momenta.tobytes()
        return now.positions.tobytes(), p, now.cell.array.tobytes()

    def _check_same_atoms(self) -> None:
        """Refuse atoms that are not those the propagator was made for."""
        now, known = self.atoms, self.molecule
        same = (
            np.array_equal(now.numbers, known.numbers)
            and np.array_equal(now.get_masses(), self._masses)
            and tuple(bool(p) for p in now.pbc) == known.pbc
            and held_by(now) == self._held
        )
        if not same:
            raise ValueError(
                "elements, masses, periodicity or constraints of the atoms changed during the "
                "run; make a new SegmentDynamics for them"
            )

    def _refresh_properties(self) -> None:
        """Compute what observers read, where one is due; ASE's drivers do so at every step."""
        if self.atoms.calc is None or not self._observer_due():
            return
        if self._record_forces and "forces" in self.atoms.calc.implemented_properties:
            self.atoms.get_forces()  # type: ignore[no-untyped-call]
        # From the same evaluation where there was one.
        self.atoms.get_potential_energy()  # type: ignore[no-untyped-call]

    def _observer_due(self) -> bool:
        return any(
            self.nsteps % interval == 0 if interval > 0 else self.nsteps == -interval
            for _, interval, _, _ in self.observers
        )

    def restart_state(self) -> dict[str, Tensor]:
        """Everything from which `restore` goes on, the pending segment included."""
        saved = {
            "numbers": self.molecule.numbers,
            "bonds": self.molecule.bonds,
            "held": torch.tensor(self._held.atoms, dtype=torch.int64),
            "nsteps": torch.tensor(self.nsteps),
            "positions": self._positions,
            "velocities": self._velocities,
            "cell": torch.from_numpy(self.atoms.cell.array.copy()),
            "made_by": torch.tensor(int(self._made_by)),
            "degrees_of_freedom": torch.tensor(self.degrees_of_freedom),
        }
        if self._segment is not None and self._next < self._segment.n_frames and not self._edited():
            rest = self._segment.frames(slice(self._next, None))
            saved |= named_under("segment", {name: getattr(rest, name) for name in _FRAMES})
        saved |= named_under("propagator", self.propagator.restart_state())
        if self._bath is not None:
            saved |= named_under("bath", self._bath.restart_state())
        return saved

    def save_restart(self, path: str | Path) -> None:
        """Write a restart file, whole or not at all; may be attached like any observer.

        Args:
            path: file, replaced if it is there.
        """
        write_record(path, self.restart_state())

    def restore(self, saved: str | Path | dict[str, Tensor]) -> None:
        """Go on where another run stopped, bit for bit, no frame being made or written twice.

        Args:
            saved: restart file, or what `restart_state` gave. The atoms take over positions,
                momenta and cell.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or of other atoms, bonds or constraints.
        """
        record = saved if isinstance(saved, dict) else read_record(saved)
        checked_record(record, self.restart_state())
        self.propagator.restore(taken_from("propagator", record))
        if self._bath is not None:
            self._bath.restore(taken_from("bath", record))
            if hasattr(self._bath, "degrees_of_freedom"):
                self._bath.degrees_of_freedom = int(record["degrees_of_freedom"])
        self.degrees_of_freedom = int(record["degrees_of_freedom"])
        self.nsteps = int(record["nsteps"])
        self.atoms.set_cell(record["cell"].numpy())  # type: ignore[no-untyped-call]
        self.atoms.set_positions(record["positions"].numpy(), apply_constraint=False)  # type: ignore[no-untyped-call]
        self._put(own_copy(record["positions"]), own_copy(record["velocities"]))
        self._made_by = MadeBy(int(record["made_by"]))
        frames = taken_from("segment", record)
        self._take(None)
        if frames:
            cell = state_from_atoms(self.atoms, self.molecule).cell
            times, x, v, made_by, energies = (frames[name] for name in _FRAMES)
            self._take(Segment(self.molecule, times, x, v, made_by, energies, cell))
