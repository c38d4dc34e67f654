"""What ASE loads to learn of our calculator, through the entry-point group `ase.plugins`.

ASE's plugins are experimental and may move, so nothing here may raise; and nothing here brings
torch, because ASE loads all plugins to list them.
"""

from __future__ import annotations

from typing import Any


def _plugins() -> set[Any]:
    try:
        from ase._4.plugins.plugin import CalculatorPlugin
    except ImportError:  # another ASE: the calculator is found once it is imported
        return set()
    return {
        CalculatorPlugin(
            name="escn",
            citation="Passaro and Zitnick, ICML 2023, arXiv 2302.03655",
            implementation="egno_md.calculators.escn_calculator.ESCNCalculator",
        )
    }


__ase_plugins__ = _plugins()
