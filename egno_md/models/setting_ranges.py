"""Checks of an architecture's numbers; a file must not ask for all memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def check_whole_numbers(settings: Mapping[str, Any], ranges: Mapping[str, tuple[int, int]]) -> None:
    """Refuse what is not a whole number of its range.

    Args:
        settings: of an architecture.
        ranges: least and greatest value of each setting that is looked at.

    Raises:
        ValueError: naming the setting.
    """
    for name, (low, high) in ranges.items():
        value = settings[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def check_positive(settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse what is not positive and finite.

    Args:
        settings: of an architecture.
        names: settings that are looked at.

    Raises:
        ValueError: naming the setting.
    """
    for name in names:
        if not 0.0 < settings[name] < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {settings[name]}")
