"""How long the outer step of multiple time stepping may be: the fastest vibration says.

Kicks that come once in an outer step D pump energy into a vibration of period P where D is a
multiple of P/2: the first such resonance is at D = P/2 (Biesiadecki and Skeel, J. Comput. Phys.
109, 318 (1993), doi:10.1006/jcph.1993.1220). In real, anharmonic molecules long runs at constant
energy drift from D = P/3 on (Ma, Izaguirre and Skeel, SIAM J. Sci. Comput. 24, 1951 (2003),
doi:10.1137/S1064827501399833). An O-H stretch has P = 9 fs. A thermostat hides the drift and not
the error; heavier hydrogens make P longer.

The inner steps d are velocity Verlet's, which is stable for d < 2 / w = P / pi.

P follows from the largest eigenvalue w^2 of a potential's Hessian in mass-weighted coordinates, by
power iteration with differences of forces. It is taken of the cheap and of the accurate potential,
and the shorter one counts: where the cheap one is too soft, the kicks do the rest.

| symbol | variable |
|---|---|
| D | `outer_step_fs` |
| d | `inner_step_fs` |
| P = 2 pi / w | `period_fs` |
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch

from egno_md.roles import Potential
from egno_md.state import Molecule, State
from egno_md.units import ACCELERATION_PER_FORCE

#: Share of the fastest period from which drift is warned of: a third, and the width of it.
_DRIFT_SHARE = 0.3

#: Share of Verlet's limit from which the inner step is warned of: P varies along a trajectory.
_STABLE_SHARE = 0.9

#: Rounds of the power iteration; each takes two evaluations.
_ROUNDS = 12

#: Longest displacement of an atom in the differences, Å.
_NUDGE_A = 5e-3


@dataclass(frozen=True, slots=True, eq=False)
class FastestVibration:
    """The fastest vibration of a potential at one geometry.

    Attributes:
        molecule: what vibrates.
        period_fs: its period; infinite where nothing pulls back.
        n_evaluations: evaluations of the potential spent on it, of the cheap one of two.
        n_evaluations_outer: of the accurate one, where there are two.
        of_outer: whether it is the accurate potential's.
    """

    molecule: Molecule
    period_fs: float
    n_evaluations: int
    n_evaluations_outer: int = 0
    of_outer: bool = False

    @classmethod
    def of(cls, potential: Potential, state: State) -> FastestVibration:
        """Find it at the geometry of the first replica.

        The number is exact for a harmonic potential; elsewhere the curvature at this geometry,
        which varies by some per cent along a trajectory.

        Args:
            potential: gives forces.
            state: a geometry that occurs in the dynamics.

        Raises:
            ValueError: if the potential fails there.
        """
        here = state.replica(0)
        x = here.positions.to(torch.float64)
        weights = here.molecule.masses.to(x).rsqrt()[:, None]
        # Always the same direction, with a share in every vibration.
        generator = torch.Generator().manual_seed(0)
        y = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        square, n_evaluations = 0.0, 0
        for _ in range(_ROUNDS):
            step = y * weights
            scale = _NUDGE_A / float(step.norm(dim=-1).max().clamp_min(1e-300))
            pulls = [
                potential.evaluate(
                    here.with_(positions=(x + sign * scale * step).to(here.positions))
                ).forces.to(torch.float64)
                for sign in (1.0, -1.0)
            ]
            n_evaluations += 2
            turned = (pulls[1] - pulls[0]) / (2 * scale) * weights * ACCELERATION_PER_FORCE
            square = float((y * turned).sum() / y.square().sum())
            size = float(turned.norm())
            if not math.isfinite(size) or size == 0.0:
                break
            y = turned / size
        period = 2 * math.pi / math.sqrt(square) if square > 0 else math.inf
        return cls(state.molecule, period, n_evaluations)

    @classmethod
    def of_either(cls, inner: Potential, outer: Potential, state: State) -> FastestVibration:
        """Find the faster one of two potentials, at the geometry of the first replica.

        Args:
            inner: the cheap potential.
            outer: the accurate one.
            state: a geometry that occurs in the dynamics.

        Raises:
            ValueError: if a potential fails there.
        """
        mine, other = cls.of(inner, state), cls.of(outer, state)
        spent = other.n_evaluations
        if other.period_fs < mine.period_fs:
            return cls(state.molecule, other.period_fs, mine.n_evaluations, spent, of_outer=True)
        return replace(mine, n_evaluations_outer=spent)

    def is_of(self, molecule: Molecule) -> bool:
        """Whether this is of the same elements and masses.

        Args:
            molecule: another one.
        """
        mine = self.molecule
        return mine is molecule or (
            torch.equal(mine.numbers, molecule.numbers)
            and torch.equal(mine.masses, molecule.masses)
        )


def warn_of_resonance(
    vibration: FastestVibration, outer_step_fs: float, inner_step_fs: float
) -> None:
    """Warn of an outer step beyond a half, or close to a third, of the fastest period.

    Of an inner step, too, that is close to the limit where velocity Verlet is no longer stable.

    Args:
        vibration: the fastest one.
        outer_step_fs: time between two kicks.
        inner_step_fs: step of velocity Verlet between them.

    Warns:
        RuntimeWarning: saying what was assumed and which step is safe.
    """
    period_fs = vibration.period_fs
    whose = "outer" if vibration.of_outer else "inner"
    found = (
        f"the fastest vibration of the {whose} potential has a period of {period_fs:.1f} fs (from "
        "its curvature at the start of the first replica)"
    )
    stable_fs = period_fs / math.pi
    if inner_step_fs > _STABLE_SHARE * stable_fs:
        warnings.warn(
            f"an inner step of {inner_step_fs:g} fs is beyond, or close to, what is stable: "
            f"{found}, and velocity Verlet is stable up to 1/pi of it, {stable_fs:.1f} fs; a tenth "
            f"of it or less is usual, {0.1 * period_fs:.1f} fs",
            RuntimeWarning,
            stacklevel=4,
        )
    if outer_step_fs >= 0.5 * period_fs:
        warnings.warn(
            f"an outer step of {outer_step_fs:g} fs resonates and will heat bonds: {found}; keep "
            f"it below {_DRIFT_SHARE * period_fs:.1f} fs, or make the hydrogens heavier",
            RuntimeWarning,
            stacklevel=4,
        )
    elif outer_step_fs > _DRIFT_SHARE * period_fs:
        warnings.warn(
            f"with an outer step of {outer_step_fs:g} fs long runs at constant energy may drift: "
            f"{found}; resonance is at half of it, drift was seen around a third, "
            f"{period_fs / 3:.1f} fs; up to {_DRIFT_SHARE * period_fs:.1f} fs is safer",
            RuntimeWarning,
            stacklevel=4,
        )
