"""Which propagators have a bath of their own, and what may not be put around them.

A guard takes the heat of a bath for an error, and makes the frames again by other dynamics; a
second bath has a temperature and a friction of its own. Around either the distribution that was
promised is lost without a word, so both are refused. A bath around a guard is as it should be: it
acts between proposals.
"""

from __future__ import annotations

from egno_md.roles import Propagator, refuse_no_propagator


def draws_noise(propagator: Propagator) -> bool:
    """Whether a propagator, or one within it, draws random numbers: its record says so.

    Args:
        propagator: any.
    """
    return any(name.rsplit(".", 1)[-1] == "generator" for name in propagator.restart_state())


def has_bath(propagator: Propagator) -> bool:
    """Whether noise acts on what a propagator makes, also within wrappers that say nothing.

    Args:
        propagator: any; `has_bath` of its own has the last word. A guard says no, even where its
            safe propagator draws noise: that only goes on from frames that were judged.
    """
    said = getattr(propagator, "has_bath", None)
    return said if isinstance(said, bool) else draws_noise(propagator)


def refuse_guard(fast: Propagator) -> None:
    """Refuse to guard a propagator that has a bath.

    Args:
        fast: what would be guarded.

    Raises:
        ValueError: saying why, and what to do.
    """
    refuse_no_propagator("fast", fast)
    if has_bath(fast):
        raise ValueError(
            f"a {type(fast).__name__} cannot be guarded: it has a bath of its own, whose heat "
            "judges would take for an error of the segment, and other dynamics in its place would "
            "change what is sampled; leave guard and fallback out (Metropolised segments are "
            "accepted or rejected already), or guard a propagator without a bath and let the bath "
            "act between proposals: Thermostatted(GuardedPropagator(...), ...), temperature_K= in "
            "ASE, a thermostat of the system in OpenMM"
        )


def refuse_second_bath(propagator: Propagator, bath: str, instead: str) -> None:
    """Refuse a bath around a propagator that has one.

    Args:
        propagator: what the bath would act on.
        bath: what would be put around it.
        instead: what to leave out, in the words of the one who asked.

    Raises:
        ValueError: saying why, and what to do.
    """
    refuse_no_propagator("propagator", propagator)
    if has_bath(propagator):
        raise ValueError(
            f"a {type(propagator).__name__} has a bath of its own, and {bath} around it would be "
            f"a second one, with a temperature and a friction of its own; {instead}"
        )


def refuse_still_centre(propagator: Propagator, holder: str, instead: str) -> None:
    """Refuse to hold the centre of mass under a propagator whose bath pushes it.

    The bath would heat it and the holder take that away once per segment, so that the temperature
    of the rest is counted with degrees of freedom that it does not have.

    Args:
        propagator: one that samples states of zero momentum says so: `zero_momentum = True`.
        holder: what would hold the centre.
        instead: what to do, in the words of the one who asked.

    Raises:
        ValueError: saying why, and what to do.
    """
    if has_bath(propagator) and getattr(propagator, "zero_momentum", False) is not True:
        raise ValueError(
            f"a {type(propagator).__name__} has a bath of its own that moves the centre of mass, "
            f"which {holder} would hold, and temperatures would be wrong; {instead}"
        )


def refuse_rest_start(propagator: Propagator) -> None:
    """Refuse a propagator whose segments from a start at rest are not always the same.

    Args:
        propagator: what a force would be taken of.

    Raises:
        ValueError: saying why, and what to do.
    """
    refuse_no_propagator("propagator", propagator)
    if has_bath(propagator) or draws_noise(propagator):
        raise ValueError(
            f"a {type(propagator).__name__} has no force of a start at rest: it draws random "
            "numbers, so one place has another force at every call; give a propagator without a "
            "bath"
        )
