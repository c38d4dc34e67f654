"""Learned molecular dynamics inside the engines people already use."""

from __future__ import annotations

__version__ = "0.1.0"
