"""Options of `egno-md run` that would have no effect in the mode of the run are refused."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from egno_md.config import RunConfig


@dataclass(frozen=True, slots=True)
class _Use:
    """Settings that something else must be there for.

    Attributes:
        keys: the settings.
        needs: what they go with, for people.
        met: whether that is there.
    """

    keys: tuple[str, ...]
    needs: str
    met: Callable[[RunConfig], bool]


def _has_limits(job: RunConfig) -> bool:
    """Whether there is a judge whose limit can be calibrated."""
    limits = (job.bond_limit_A, job.contact_factor, job.energy_limit_eV)
    return bool(job.other_networks) or any(limit is not None for limit in limits)


_USES: Final = (
    _Use(("outer_step_fs",), "an inner_potential", lambda job: job.inner_potential is not None),
    _Use(
        ("frame_interval_fs",),
        "other modes: a metropolised run has one frame per proposal (proposal_fs)",
        lambda job: job.mode != "metropolised",
    ),
    _Use(
        ("n_slabs", "frames_per_slab", "tolerance_A", "slabs_at_once", "n_workers"),
        "mode 'parareal'",
        lambda job: job.mode == "parareal",
    ),
    _Use(
        ("energy_every", "recover_after", "guard_calibration_windows"),
        "mode 'guarded'",
        lambda job: job.mode == "guarded",
    ),
    _Use(
        ("bond_limit_A", "contact_factor", "energy_limit_eV"),
        "the judges of mode 'guarded'",
        lambda job: job.mode == "guarded",
    ),
    _Use(
        ("temperature_alarm_rate",),
        "mode 'guarded' with ensemble 'nvt'",
        lambda job: job.mode == "guarded" and job.ensemble == "nvt",
    ),
    _Use(
        ("energy_frames",),
        "an energy_limit_eV in mode 'guarded'",
        lambda job: job.mode == "guarded" and job.energy_limit_eV is not None,
    ),
    _Use(
        ("guard_calibration_windows",),
        "a judge whose limit they set: bond_limit_A, contact_factor, energy_limit_eV or "
        "other_networks",
        lambda job: job.guard_calibration_windows == 0 or _has_limits(job),
    ),
    _Use(
        ("friction_per_ps",),
        "ensemble 'nvt'; the bath before the run has a friction of its own",
        lambda job: job.ensemble == "nvt",
    ),
    _Use(
        ("disagreement_limit_A",),
        "other_networks in mode 'guarded'",
        lambda job: job.mode == "guarded" and bool(job.other_networks),
    ),
    _Use(
        ("guard_alarm_rate",),
        "guard_calibration_windows in mode 'guarded'",
        lambda job: job.mode == "guarded" and job.guard_calibration_windows > 0,
    ),
    _Use(
        ("tuning_cpu_s",),
        "mode 'metropolised' without proposal_fs",
        lambda job: job.mode == "metropolised" and job.proposal_fs is None,
    ),
)

#: An option for one of these changes what the settings of a job file are there for.
_DECIDING: Final = frozenset(
    {
        *("mode", "ensemble", "inner_potential", "proposal", "proposal_fs"),
        *("guard_calibration_windows", "other_networks", "energy_limit_eV"),
    }
)


def refuse_unused(
    config: RunConfig, by_option: Collection[str], by_file: Collection[str] = ()
) -> None:
    """Refuse settings that were named and would do nothing.

    Args:
        config: the settings, put together.
        by_option: keys named on the command line.
        by_file: keys named in a job file. Where the command line asks for another mode or
            ensemble, those that the file has for its own are left alone.

    Raises:
        ValueError: naming the first such setting, its value and what it needs.
    """
    if "other_networks" in by_option and not config.other_networks:
        raise ValueError("other_networks needs a value: the name of a bundle of kind 'egno'")
    named = set(by_option)
    if not named & _DECIDING:
        named |= set(by_file)
    for use in _USES:
        if use.met(config):
            continue
        for key in use.keys:
            if key in named:
                raise ValueError(
                    f"{key} = {getattr(config, key)!r} would have no effect here, in mode "
                    f"{config.mode!r}; it goes with {use.needs}"
                )
