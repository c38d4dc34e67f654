"""`egno-md benchmark step`: what a training step of the published EGNO costs.

Ours against the straightforward formulation, with the same weights and data, one step of each
in turn, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.plain_egno import PlainEGNO
from egno_md.benchmarks.table import Cell, Table
from egno_md.models.bfloat16_products import Bfloat16Products
from egno_md.models.egno import EGNO, graph_centres

ROUNDS: Final = 30

Inputs = tuple[Tensor, ...]
Step = Callable[[], float]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepSize:
    """Sizes of a training step.

    Attributes:
        batch_size: graphs per step.
        n_nodes: nodes of a graph.
        n_edges: directed edges of a graph.
        hidden: width of the features.
        n_layers: layers.
        n_times: time points.
        node_features: given features of a node.
        edge_features: given features of an edge.
    """

    batch_size: int
    n_nodes: int
    n_edges: int
    hidden: int
    n_layers: int
    n_times: int = 5
    node_features: int = 2
    edge_features: int = 2


#: The published sizes.
SIZES: Final[Mapping[str, StepSize]] = {
    "N-body, B = 100": StepSize(100, 5, 20, hidden=64, n_layers=4, node_features=1),
    "MoCap, B = 12": StepSize(12, 31, 130, hidden=128, n_layers=6),
}


def random_inputs(size: StepSize, generator: torch.Generator) -> tuple[Inputs, Tensor]:
    """Inputs of `EGNO.forward` and targets; the graph is random, the cost does not see it.

    Args:
        size: the sizes.
        generator: source of randomness.

    Returns:
        the inputs, and targets `(n_times, batch_size * n_nodes, 3)`.
    """
    nodes = size.batch_size * size.n_nodes

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    pairs = [(i, j) for i in range(size.n_nodes) for j in range(size.n_nodes) if i != j]
    chosen = torch.randperm(len(pairs), generator=generator)[: size.n_edges].sort().values
    first = size.n_nodes * torch.arange(size.batch_size)
    edges = (torch.tensor(pairs)[chosen].T[:, None] + first[:, None]).flatten(1)
    x = normal(nodes, 3)
    graph = torch.arange(size.batch_size).repeat_interleave(size.n_nodes)
    inputs = (
        x,
        normal(nodes, 3),
        normal(nodes, size.node_features),
        edges,
        normal(edges.shape[1], size.edge_features),
        graph_centres(x, graph, size.batch_size),
    )
    return inputs, normal(size.n_times, nodes, 3)


def training_step(model: nn.Module, inputs: Inputs, targets: Tensor) -> Step:
    """A function that does one training step with Adam and returns its loss.

    Args:
        model: takes the inputs to positions and more.
        inputs: the inputs.
        targets: positions to learn.
    """
    # So small a learning rate that the weights, and with them the work, stay as they are.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-12)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = (model(*inputs)[0] - targets).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def cpu_seconds(
    steps: Sequence[Callable[[], object]], rounds: int, warm: int = 2
) -> list[list[float]]:
    """Processor time of steps, one of each in turn.

    Args:
        steps: the steps.
        rounds: turns.
        warm: how often each is done before.

    Returns:
        for each step its times, s.
    """
    for step in steps:
        for _ in range(warm):
            step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, mine in zip(steps, times, strict=True):
            start = time.process_time()
            step()
            mine.append(time.process_time() - start)
    return times


def variants(size: StepSize, names: Sequence[str], generator: torch.Generator) -> dict[str, Step]:
    """The ways to do the step.

    Args:
        size: the sizes.
        names: which, out of `ROWS`; "plain" is always there, as the yardstick.
        generator: source of the data.
    """
    inputs, targets = random_inputs(size, generator)
    egno = EGNO(
        size.n_layers,
        size.node_features,
        size.edge_features,
        size.hidden,
        num_timesteps=size.n_times,
    )
    steps = {"plain": training_step(PlainEGNO(egno), inputs, targets)}
    for name, (half, compiled) in ROWS.items():
        if name == "plain" or name not in names:
            continue
        model: nn.Module = Bfloat16Products(egno) if half else egno
        if compiled:
            model = cast(nn.Module, torch.compile(model, dynamic=False))
        step = training_step(model, inputs, targets)
        try:
            step()
        except RuntimeError as why:
            if not compiled:
                raise
            _LOG.warning("no row %r: %s", name, str(why).splitlines()[0])
        else:
            steps[name] = step
    return steps


#: Rows: whether linear maps are in bfloat16, and whether the network is compiled.
ROWS: Final[Mapping[str, tuple[bool, bool]]] = {
    "plain": (False, False),
    "ours": (False, False),
    "ours, compiled": (False, True),
    "ours, bfloat16": (True, False),
    "ours, bfloat16, compiled": (True, True),
}


def measure(config: BenchmarkConfig) -> list[Table]:
    """Time the steps.

    Args:
        config: rows and first seed.

    Raises:
        ValueError: if a row is not known, or the device is not the CPU.
    """
    if config.device != "cpu":
        raise ValueError(f"this benchmark measures processor time, not device {config.device!r}")
    unknown = [name for name in config.rows if name not in ROWS]
    if unknown:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {list(ROWS)}")
    table = Table(
        "step",
        f"Training step (forward, loss, backward, Adam) of the published EGNO, "
        f"{torch.get_num_threads()} thread(s): processor time, median of {ROUNDS} steps of each "
        "row in turn. Plain: features joined on every edge, complex FFTs; ours: the same numbers "
        "by `egno_md.models.egno`; bfloat16: its linear maps in that precision. Ratio: "
        "median over the turns, with its lower and upper quartile.",
        ("task", "row", "CPU ms", "plain / row", "lower", "upper"),
    )
    generator = torch.Generator().manual_seed(config.seeds[0])
    for task, size in SIZES.items():
        steps = variants(size, config.rows or tuple(ROWS), generator)
        times = cpu_seconds(list(steps.values()), ROUNDS)
        for name, mine in zip(steps, times, strict=True):
            ratios = [plain / own for plain, own in zip(times[0], mine, strict=True)]
            lower, middle, upper = statistics.quantiles(ratios, n=4)
            milliseconds = 1e3 * statistics.median(mine)
            table.add(task, name, milliseconds, Cell(middle), Cell(lower), Cell(upper))
    return [table]
