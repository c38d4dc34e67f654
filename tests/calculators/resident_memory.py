"""How much memory the process holds."""

from __future__ import annotations

import gc
import resource

import pytest


def resident_MB() -> float:
    gc.collect()
    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * resource.getpagesize() / 2**20
    except FileNotFoundError:
        pytest.skip("no /proc/self/statm on this system")
