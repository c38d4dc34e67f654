"""Two potentials, two time steps: the cheap one often, the accurate one seldom.

r-RESPA, the impulse method: the difference of the forces kicks at the two ends of an outer step,
and between them velocity Verlet follows the cheap potential,

    exp(D L_slow / 2) [exp(d L_cheap)]^n exp(D L_slow / 2),    D = n d

(Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990 (1992), eq. 2.22, doi:10.1063/1.463137). It
is symplectic and reversible and follows the accurate potential to second order in D, as long as D
stays away from resonances, see `resonance`.

| symbol | variable |
|---|---|
| D | `outer_step_fs` |
| d | `inner_step_fs` |
| n | `inner_per_outer` |
| force behind L_slow | `Correction` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from egno_md.propagators.classical import OrnsteinUhlenbeck
from egno_md.propagators.frame_grid import OnFrameGrid
from egno_md.propagators.integrator import Drift, KickDriftKick
from egno_md.propagators.remembered_potential import RememberedPotential
from egno_md.propagators.resonance import FastestVibration, warn_of_resonance
from egno_md.propagators.restart import named_under, taken_from
from egno_md.roles import EnergyForces, Potential, refuse_no_potential
from egno_md.segment import Segment
from egno_md.state import Molecule, State
from egno_md.units import ACCELERATION_PER_FORCE


class Correction:
    """Accurate minus cheap: what the cheap potential leaves out, itself a potential.

    In OpenMM it is the slow force group of an `MTSIntegrator`:
    `openmm_force(Correction(accurate, cheap), topology)`.
    """

    def __init__(self, accurate: Potential, cheap: Potential) -> None:
        """Take both.

        Args:
            accurate: what is wanted.
            cheap: what is there already.
        """
        self.accurate = accurate
        self.cheap = cheap

    def evaluate(self, state: State) -> EnergyForces:
        """Return the differences of energies and forces.

        Args:
            state: positions in Å.

        Raises:
            ValueError: as either potential does.
        """
        whole, part = self.accurate.evaluate(state), self.cheap.evaluate(state)
        return EnergyForces(whole.energy - part.energy, whole.forces - part.forces)

    def energies(self, state: State) -> Tensor:
        """Return the difference of energies, `(n_replicas,)` float64, eV."""
        return self.accurate.energies(state) - self.cheap.energies(state)


class _Impulse:
    """The force of the correction with the energy of the accurate potential, for the frames."""

    def __init__(self, accurate: Potential, cheap: Potential) -> None:
        self.accurate, self.cheap = accurate, cheap

    def evaluate(self, state: State) -> EnergyForces:
        whole = self.accurate.evaluate(state)
        return replace(whole, forces=whole.forces - self.cheap.evaluate(state).forces)

    def energies(self, state: State) -> Tensor:
        return self.accurate.energies(state)


@dataclass(frozen=True, slots=True)
class Evaluations:
    """How often each potential was asked for forces, all replicas together counting as one.

    Attributes:
        outer: the accurate potential.
        inner: the cheap potential, without those for `probing`.
        probing: the cheap potential, to find its fastest vibration.
        probing_outer: the accurate potential, likewise.
    """

    outer: int
    inner: int
    probing: int
    probing_outer: int = 0


class _TwoSteps(OnFrameGrid):
    """What both propagators share: kicks of the correction around steps with the cheap potential.

    The cheap forces at the end of an outer step serve the correction and the next inner step.
    """

    reversible = False
    volume_preserving = False

    def __init__(
        self,
        inner: Potential,
        outer: Potential,
        inner_step_fs: float,
        outer_step_fs: float,
        frame_interval_fs: float,
        n_frames: int,
        *,
        check_resonance: bool = True,
    ) -> None:
        """Set up the grids of steps and frames.

        Args:
            inner: the cheap potential; its energy is never asked for.
            outer: the accurate potential, whose dynamics is wanted.
            inner_step_fs: step of the cheap forces; 0.5 fs is safe with hydrogens.
            outer_step_fs: step of the accurate forces, a multiple of the inner one; 2 to 4 fs.
            frame_interval_fs: time between frames, a multiple of the outer step.
            n_frames: frames of a full segment.
            check_resonance: look for the fastest vibration of every new molecule and warn of
                an outer step near a resonance and an inner one near Verlet's limit; costs 24
                evaluations of each potential.

        Raises:
            ValueError: if a potential is none or the accurate one has no energies, a number is
                out of range or a step is no multiple, naming both.
        """
        refuse_no_potential("inner", inner)
        refuse_no_potential("outer", outer)
        if getattr(outer, "has_energy", True) is False:
            raise ValueError(
                f"outer is a {type(outer).__name__}, which has no energies, and frames carry those "
                "of the accurate potential; give it as inner, and a potential with energies as "
                "outer"
            )
        _check_grids(inner_step_fs, outer_step_fs, frame_interval_fs)
        self._inner, self._outer = RememberedPotential(inner), RememberedPotential(outer)
        impulse = _Impulse(self._outer, self._inner)
        self._loop = KickDriftKick(impulse, outer_step_fs, frame_interval_fs, n_frames)
        outer_step = self._loop.timestep_fs
        ratio = outer_step / inner_step_fs
        count = round(ratio)
        if count < 1 or abs(ratio - count) > 1e-6 * ratio:
            raise ValueError(
                f"the outer step of {outer_step:g} fs is not a multiple of the inner one of "
                f"{inner_step_fs} fs; choose, for example, {outer_step / max(1, count):g} fs inside"
            )
        self.inner_per_outer = count
        self._check_resonance = check_resonance
        self._vibration: FastestVibration | None = None
        self._asked_of_resonance = False

    @property
    def inner_step_fs(self) -> float:
        """Step of the cheap forces."""
        return self._loop.timestep_fs / self.inner_per_outer

    @property
    def outer_step_fs(self) -> float:
        """Step of the accurate forces."""
        return self._loop.timestep_fs

    @property
    def fastest_period_fs(self) -> float | None:
        """Period of the fastest vibration of the two potentials, fs.

        None before the first segment or unasked.
        """
        return None if self._vibration is None else self._vibration.period_fs

    def evaluations(self) -> Evaluations:
        """Counts of force evaluations so far, those before a restart too."""
        found = self._vibration
        probing = (0, 0) if found is None else (found.n_evaluations, found.n_evaluations_outer)
        return Evaluations(self._outer.evaluations, self._inner.evaluations, *probing)

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`, with the accurate energy of each frame.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: naming replica, atom and time where the dynamics fails.

        Warns:
            RuntimeWarning: if the outer step is close to a resonance with the fastest vibration,
                or the inner step close to the stability limit of velocity Verlet.
        """
        self._probe(state)
        return self._loop.advance(state, n_frames, self._drift(state))

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered forces of both potentials, the counts, and the fastest vibration."""
        saved = named_under("correction", self._loop.restart_state())
        saved |= named_under("inner", self._inner.restart_state())
        counts = [self._outer.evaluations, self._inner.evaluations]
        saved["evaluations"] = torch.tensor(counts)
        if self._vibration is not None:
            saved |= named_under("vibration", _vibration_saved(self._vibration))
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave; records without counts are of earlier versions."""
        self._loop.restore(taken_from("correction", saved))
        self._inner.restore(taken_from("inner", saved))
        if "evaluations" in saved:
            counts = saved["evaluations"].tolist()
            self._outer.evaluations, self._inner.evaluations = counts
        if "vibration.period_fs" in saved:
            self._vibration = _vibration_restored(taken_from("vibration", saved))
            self._asked_of_resonance = False

    def _probe(self, state: State) -> None:
        """Look for the fastest vibration, once for a set of atoms; warn once after a restart."""
        if not self._check_resonance:
            return
        if self._vibration is None or not self._vibration.is_of(state.molecule):
            both = (self._inner.potential, self._outer.potential)
            self._vibration = FastestVibration.of_either(*both, state)
            self._asked_of_resonance = False
        if not self._asked_of_resonance:
            self._asked_of_resonance = True
            warn_of_resonance(self._vibration, self.outer_step_fs, self.inner_step_fs)

    def _drift(self, state: State) -> Drift:
        """Inner steps that fill an outer one."""
        half = 0.5 * self.inner_step_fs * ACCELERATION_PER_FORCE
        half_kick = half / state.molecule.masses.to(state.positions)[:, None]

        def forces(x: Tensor) -> Tensor:
            found = self._inner.evaluate(state.with_(positions=x)).forces
            if not bool(torch.isfinite(found).all()):
                r, i, _ = (int(k) for k in (~torch.isfinite(found)).nonzero()[0])
                raise ValueError(
                    f"the force of the inner potential on atom {i} of replica {r} is not finite, "
                    f"in steps of {self.inner_step_fs:g} fs within {self.outer_step_fs:g} fs"
                )
            return found

        def drift(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            for _ in range(self.inner_per_outer):
                v = v + half_kick * forces(x)
                x, v = self._moved(state, x, v)
                v = v + half_kick * forces(x)
            return x, v

        return drift

    def _moved(self, state: State, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Between two inner half kicks."""
        return x + self.inner_step_fs * v, v


class MultipleTimeStep(_TwoSteps):
    """Newton's equations with two time steps: reversible, volume preserving, second order."""

    reversible = True
    volume_preserving = True


class MultipleTimeStepLangevin(_TwoSteps):
    """Langevin dynamics with two time steps: BAOAB inside, the correction's kicks around it.

    Friction and noise act in every inner step, as in OpenMM's `MTSLangevinIntegrator`; the inner
    steps alone are `Langevin` with the cheap potential. Velocities at the ends of outer steps are
    too cold by (w_c D)^2 / 4, with w_c^2 the curvature of the correction over the mass, on top of
    what `Langevin` says of inner steps.
    """

    has_bath = True

    def __init__(
        self,
        inner: Potential,
        outer: Potential,
        inner_step_fs: float,
        outer_step_fs: float,
        frame_interval_fs: float,
        n_frames: int,
        temperature_K: float,
        friction_per_ps: float,
        generator: torch.Generator,
        *,
        check_resonance: bool = True,
    ) -> None:
        """Set up the grids and the bath.

        Args:
            inner: the cheap potential.
            outer: the accurate potential, whose distribution is wanted.
            inner_step_fs: step of the cheap forces.
            outer_step_fs: step of the accurate forces, a multiple of the inner one.
            frame_interval_fs: time between frames, a multiple of the outer step.
            n_frames: frames of a full segment.
            temperature_K: temperature of the bath.
            friction_per_ps: friction; it damps resonances only where it is strong.
            generator: source of randomness.
            check_resonance: as for `MultipleTimeStep`.

        Raises:
            ValueError: if a number is out of range or a step is no multiple, naming both.
        """
        super().__init__(
            inner,
            outer,
            inner_step_fs,
            outer_step_fs,
            frame_interval_fs,
            n_frames,
            check_resonance=check_resonance,
        )
        self._bath = OrnsteinUhlenbeck(temperature_K, friction_per_ps, generator)

    def _moved(self, state: State, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Half drift, friction and noise, half drift."""
        return self._bath.moved(state.molecule, x, v, self.inner_step_fs)

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered forces and the generator's state."""
        return super().restart_state() | self._bath.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self._bath.restore(saved)
        super().restore(saved)


def _check_grids(inner_step_fs: float, outer_step_fs: float, frame_interval_fs: float) -> None:
    """Refuse steps that are not positive, and frames between two outer steps."""
    steps = {"inner_step_fs": inner_step_fs, "outer_step_fs": outer_step_fs}
    for name, value in (steps | {"frame_interval_fs": frame_interval_fs}).items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a positive number of fs")
    ratio = frame_interval_fs / outer_step_fs
    count = max(1, round(ratio))
    if abs(ratio - count) > 1e-6 * ratio:
        raise ValueError(
            f"frame_interval_fs {frame_interval_fs} is not a multiple of outer_step_fs "
            f"{outer_step_fs}; choose, for example, frame_interval_fs {count * outer_step_fs:g}"
        )


def _vibration_saved(vibration: FastestVibration) -> dict[str, Tensor]:
    """A vibration as tensors, with what says of which atoms it is."""
    return {
        "numbers": vibration.molecule.numbers,
        "masses": vibration.molecule.masses,
        "period_fs": torch.tensor(vibration.period_fs, dtype=torch.float64),
        "n_evaluations": torch.tensor(vibration.n_evaluations),
        "n_evaluations_outer": torch.tensor(vibration.n_evaluations_outer),
        "of_outer": torch.tensor(vibration.of_outer),
    }


def _vibration_restored(saved: Mapping[str, Tensor]) -> FastestVibration:
    """What `_vibration_saved` made tensors of."""
    molecule = Molecule(saved["numbers"], saved["masses"])
    return FastestVibration(
        molecule,
        float(saved["period_fs"]),
        int(saved["n_evaluations"]),
        # Records of earlier versions say nothing of the accurate potential.
        int(saved.get("n_evaluations_outer", torch.tensor(0))),
        bool(saved.get("of_outer", torch.tensor(False))),
    )
