"""`egno-md benchmark`: measure a table and write it down."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from egno_md.benchmarks.table import Table

#: The module of each benchmark; its `measure(config)` returns tables.
MODULES: Final = {
    "nbody": "nbody",
    "mocap": "mocap",
    "md17-sgdml": "md17_sgdml",
    "adk": "adk",
    "claims": "claims",
    "step": "training_step",
    "propagators": "propagators",
    "rollouts": "rollouts",
    "cost": "cost",
    "so2": "so2",
    "speed": "speed",
    "potentials": "potentials",
    "mace": "mace_comparison",
    "doors": "doors",
    "acceleration": "acceleration",
    "time-steps": "time_steps",
    "guard": "guard",
}


def run(argv: Sequence[str]) -> int:
    """Measure one benchmark, print its tables and write them to the output folder.

    Args:
        argv: the arguments after the verb.

    Returns:
        The exit code.

    Raises:
        FileNotFoundError: if data is missing.
        ValueError: if an option or the data is wrong.
    """
    from egno_md.benchmark_config import BenchmarkConfig
    from egno_md.config import read_job

    config = read_job(BenchmarkConfig, argv)

    import torch

    from egno_md.benchmarks.table import write_tables

    torch.set_num_threads(config.n_threads)
    module = importlib.import_module(f"egno_md.benchmarks.{MODULES[config.name]}")
    tables: list[Table] = module.measure(config)
    for table in tables:
        sys.stdout.write(table.markdown() + "\n\n")
    for path in write_tables(tables, config):
        sys.stdout.write(f"wrote {path}\n")
    return 0
