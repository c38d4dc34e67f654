"""Refusing work that the machine's memory cannot hold, before it begins."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> float | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024.0 * float(line.split()[1])
    return None


def refuse_too_large(needed_bytes: float, what: str) -> None:
    """Say that something does not fit, if so.

    Args:
        needed_bytes: estimate of what it takes.
        what: for the message, such as "50000 atoms with 2700000 edges".

    Raises:
        ValueError: with estimate and what is there.
    """
    there = available_bytes()
    if there is not None and needed_bytes > there:
        raise ValueError(
            f"{what} need about {needed_bytes / 1e9:.1f} GB of memory and {there / 1e9:.1f} GB are "
            "available; take a smaller system, fewer replicas at once or a smaller model"
        )
