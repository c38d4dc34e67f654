"""Limits of judges from windows of the trusted dynamics, with a guaranteed false-alarm rate.

Of n independent good windows let j lie above a limit that one of them has. The share of all good
windows above it is then at most alpha with confidence P(Binomial(n, alpha) > j), whatever the
distribution: the one-sided tolerance limit of Wilks, Ann. Math. Stat. 12, 91 (1941). The limit
taken is the lowest that has the confidence asked for. The first, j = 0, needs
(1 - alpha)^n <= 1 - confidence, so 299 windows for 1 % with 95 %.

| symbol | variable |
|---|---|
| alpha | `alarm_rate` |
| n | `n_windows` |
| j | `n_above` |
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.total_energy import total_energies
from egno_md.roles import Potential, Propagator
from egno_md.segment import Segment
from egno_md.state import State, kinetic_energy
from egno_md.trajectories.ensemble_judge import EnsembleJudge
from egno_md.trajectories.judges import BondJudge, ContactJudge

if TYPE_CHECKING:
    from egno_md.config import RunConfig

#: Confidence of every calibrated limit.
CONFIDENCE: Final = 0.95

#: Windows that the network moves in one batch.
_BATCH = 64


def windows_needed(alarm_rate: float, confidence: float = CONFIDENCE) -> int:
    """Fewest windows from which a limit can be guaranteed.

    Args:
        alarm_rate: share of good windows that may be rejected.
        confidence: of that statement.

    Raises:
        ValueError: if a number does not lie between 0 and 1.
    """
    for name, value in (("alarm_rate", alarm_rate), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
    return math.ceil(math.log1p(-confidence) / math.log1p(-alarm_rate))


def check_windows(n_windows: int, alarm_rate: float, confidence: float = CONFIDENCE) -> None:
    """Refuse too few windows.

    Args:
        n_windows: how many there are or will be.
        alarm_rate: share of good windows that may be rejected.
        confidence: of that statement.

    Raises:
        ValueError: saying how many are needed.
    """
    needed = windows_needed(alarm_rate, confidence)
    if n_windows < needed:
        raise ValueError(
            f"{n_windows} windows cannot guarantee a false-alarm rate of {alarm_rate:g} with "
            f"confidence {confidence:g}; make at least {needed}, or allow more false alarms"
        )


def tolerance_limit(values: Tensor, alarm_rate: float, confidence: float = CONFIDENCE) -> float:
    """Lowest of the values that at most so large a share of further ones exceeds.

    Args:
        values: `(n_windows,)`, one number per independent window; the larger, the worse.
        alarm_rate: that share.
        confidence: of that statement.

    Raises:
        ValueError: if a value is NaN, or if there are too few, saying how many are needed.
    """
    values = values.to(torch.float64).flatten()
    n = len(values)
    check_windows(n, alarm_rate, confidence)
    if bool(values.isnan().any()):
        raise ValueError("a window has no value (NaN), so no limit can be set by it")
    return float(values.sort(descending=True).values[_n_above(n, alarm_rate, confidence)])


def _n_above(n: int, alarm_rate: float, confidence: float) -> int:
    """Most windows that may lie above the limit."""
    total, j = 0.0, -1
    while True:
        k = j + 1
        log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(log + k * math.log(alarm_rate) + (n - k) * math.log1p(-alarm_rate))
        # A hair above 1 - confidence is rounding.
        if total > (1.0 - confidence) * (1.0 + 1e-12) or k == n:
            return max(j, 0)
        j = k


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Calibrated limits of a guard's judges; None where one is not asked.

    Attributes:
        energy_eV: largest change of the total energy over a proposal.
        energy_tolerance_eV: what the windows gave, None where it is not finite; the limit asked
            for holds where it is lower.
        bond_A: largest deviation of a bond length.
        contact_factor: smallest distance over the sum of covalent radii.
        disagreement_A: largest mean distance of an atom from where other networks put it.
        disagreement_tolerance_A: what the windows gave, likewise.
        alarm_rate: share of good proposals that each of these judges may reject.
        confidence: of that statement.
        n_windows: windows it comes from.
        window_fs: their length, that of a full proposal.
    """

    energy_eV: float | None
    energy_tolerance_eV: float | None
    bond_A: float | None
    contact_factor: float | None
    disagreement_A: float | None
    disagreement_tolerance_A: float | None
    alarm_rate: float
    confidence: float
    n_windows: int
    window_fs: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def with_limits(config: RunConfig, limits: Mapping[str, Any] | None) -> RunConfig:
    """Return the settings of a run with calibrated limits in the place of its own.

    Args:
        config: settings.
        limits: from `GuardLimits.to_json`, or None: nothing changes.
    """
    if limits is None:
        return config
    changes = {
        "energy_limit_eV": limits["energy_eV"],
        "bond_limit_A": limits["bond_A"],
        "contact_factor": limits["contact_factor"],
    }
    if limits.get("disagreement_A") is not None:
        changes["disagreement_limit_A"] = limits["disagreement_A"]
    return config.model_copy(update=changes)


def limit_sentences(limits: Mapping[str, Any]) -> list[str]:
    """Say what was calibrated and what is guaranteed.

    Args:
        limits: from `GuardLimits.to_json`.
    """
    found = (
        ("energy_eV", "total energy {:.3g} eV"),
        ("bond_A", "bond lengths {:.3g} Å"),
        ("contact_factor", "contacts {:.3g} of the covalent radii"),
        ("disagreement_A", "disagreement with other networks {:.3g} Å"),
    )
    each = [text.format(limits[key]) for key, text in found if limits.get(key) is not None]
    said = [
        f"limits from {limits['n_windows']} windows of {limits['window_fs']:g} fs of the trusted "
        f"dynamics: {', '.join(each)}; each judge rejects at most {limits['alarm_rate']:.2%} of "
        f"good proposals (confidence {limits['confidence']:.0%})"
    ]
    for what, limit, wanted, unit in (
        ("energy error", limits["energy_eV"], limits["energy_tolerance_eV"], "eV"),
        (
            "disagreement with others",
            limits.get("disagreement_A"),
            limits.get("disagreement_tolerance_A"),
            "Å",
        ),
    ):
        if limit is not None and (wanted is None or wanted > limit):
            many = "is not finite too often"
            needs = many if wanted is None else f"would need {wanted:.3g} {unit}"
            said.append(
                f"the network's {what} {needs}; the limit asked for, {limit:g} {unit}, holds, and "
                "more of its proposals will be rejected"
            )
    return said


def calibrate(
    config: RunConfig,
    fast: Propagator,
    potential: Potential,
    starts: State,
    trusted: Segment,
    bond_lengths_A: list[float],
    others: Sequence[Propagator] = (),
) -> GuardLimits:
    """Set the limits of the judges that a run asks for.

    The limits of bonds and contacts come from the trusted frames alone and may be wider or
    narrower than those of the settings. Those of energy and disagreement come from the network's
    proposals and are never wider: otherwise a bad network would excuse itself.

    Args:
        config: settings.
        fast: makes the proposals.
        potential: for the energy.
        starts: of the windows, one replica each, independent and not used in training.
        trusted: the trusted dynamics from there, as long as a full proposal.
        bond_lengths_A: in the order of `molecule.bonds`.
        others: networks that give a second opinion.

    Raises:
        ValueError: if there are too few windows, saying how many are needed.
    """
    rate, molecule = config.guard_alarm_rate, starts.molecule
    check_windows(starts.n_replicas, rate)
    bond = contact = energy = wanted = apart = opinion = None
    if config.bond_limit_A is not None and len(molecule.bonds):
        judge = BondJudge(torch.tensor(bond_lengths_A, dtype=torch.float64), config.bond_limit_A)
        bond = tolerance_limit(judge.deviations_A(trusted).amax(1), rate)
    if config.contact_factor is not None:
        least = ContactJudge(config.contact_factor).shares(trusted).amin(1)
        if bool(torch.isfinite(least).all()):
            contact = -tolerance_limit(-least, rate)
    if config.energy_limit_eV is not None:
        every = config.energy_frames != "last"
        errors = energy_errors(fast, potential, starts, trusted.n_frames, every_frame=every)
        wanted = tolerance_limit(errors, rate)
        # A limit of zero would be none.
        energy = max(min(wanted, config.energy_limit_eV), 1e-9)
    if others:
        opinion = tolerance_limit(disagreements(fast, others, starts, trusted.n_frames), rate)
        apart = max(min(opinion, config.disagreement_limit_A), 1e-9)
    return GuardLimits(
        energy,
        wanted if wanted is not None and math.isfinite(wanted) else None,
        bond,
        config.contact_factor if contact is None else contact,
        apart,
        opinion if opinion is not None and math.isfinite(opinion) else None,
        rate,
        CONFIDENCE,
        starts.n_replicas,
        float(trusted.times_fs[-1]) - starts.time_fs,
    )


def energy_errors(
    fast: Propagator,
    potential: Potential,
    starts: State,
    n_frames: int,
    *,
    every_frame: bool = False,
) -> Tensor:
    """Change of the total energy over the proposals from some starts.

    Args:
        fast: makes the proposals.
        potential: for the energy.
        starts: one replica for each.
        n_frames: length of a proposal.
        every_frame: take the largest of all frames, not that of the last.

    Returns:
        `(n_replicas,)` eV, absolute; infinite where a proposal is not finite or the potential
        refuses it.
    """
    found = []
    for block in torch.split(torch.arange(starts.n_replicas), _BATCH):
        here = starts.replica(block)
        segment = fast.advance(here, n_frames)
        # A limit that nothing breaks: the judge asks for the frames meant, and no others.
        judge = EnergyJudge(potential, sys.float_info.max, frames="all" if every_frame else "last")
        seen = judge.judge(here, segment).potential_energies
        assert seen is not None
        first = 0 if every_frame else n_frames - 1
        after = seen + kinetic_energy(here.molecule, segment.velocities).cpu()
        change = (after - total_energies(potential, here)[:, None]).abs()[:, first:]
        change = change.nan_to_num(nan=math.inf, posinf=math.inf).amax(1)
        found.append(change)
    return torch.cat(found)


def disagreements(
    fast: Propagator, others: Sequence[Propagator], starts: State, n_frames: int
) -> Tensor:
    """Largest disagreement of networks over the proposals from some starts.

    Args:
        fast: makes the proposals.
        others: the other networks.
        starts: one replica for each.
        n_frames: length of a proposal.

    Returns:
        `(n_replicas,)` Å, of the worst frame and atom; infinite where a frame is not finite.
    """
    found = []
    judge = EnsembleJudge(others, sys.float_info.max)
    for block in torch.split(torch.arange(starts.n_replicas), _BATCH):
        here = starts.replica(block)
        apart = judge.disagreement_A(here, fast.advance(here, n_frames))
        found.append(apart.nan_to_num(nan=math.inf, posinf=math.inf).amax((1, 2)))
    return torch.cat(found)
