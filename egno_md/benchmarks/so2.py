"""`egno-md benchmark so2`: what an SO(2) convolution saves over the tensor product it equals.

Both formulations of one convolution, with weights that correspond exactly, in turn, so that
what else the machine does falls on both alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.full_tensor_product import (
    edge_harmonics,
    from_e3nn,
    full_tensor_product,
    to_e3nn,
)
from egno_md.benchmarks.table import Cell, Table
from egno_md.benchmarks.training_step import cpu_seconds
from egno_md.models.edge_frame import edge_frames
from egno_md.models.so2_convolution import SO2Convolution, edge_order, order_sizes
from egno_md.models.so2_weights import equal_convolution, tensor_product_paths
from egno_md.models.wigner import WignerMatrices, stack_blocks

#: Degrees, rows of the table.
DEGREES: Final = (1, 2, 3, 4, 5, 6)
CHANNELS: Final = 32
N_EDGES: Final = 128
ROUNDS: Final = 20

_COLUMNS: Final = (
    "L",
    "SO(3), µs",
    "SO(2) alone, µs",
    "SO(2), µs",
    "ratio",
    "lower",
    "upper",
    "Wigner matrices, µs",
    "difference",
)


@dataclass(frozen=True, slots=True)
class Formulations:
    """One convolution on random edges, ready to be done in two ways.

    Attributes:
        features: `(n_edges, (L+1)^2, channels)`.
        flat: the same in e3nn's order.
        directions: `(n_edges, 3)`, unit vectors.
        filters: `(n_edges, (2L+1)^2)`, their spherical harmonics.
        weights: flat path weights.
        product: e3nn's tensor product.
        wigner: makes Wigner matrices.
        rows: index of the coefficients in m-primary order.
        into_frame: `(n_edges, (L+1)^2, (L+1)^2)`, Wigner matrices, rows in m-primary order.
        convolution: the SO(2) convolution of the same weights.
        sizes: coefficients of each signed order.
    """

    features: Tensor
    flat: Tensor
    directions: Tensor
    filters: Tensor
    weights: Tensor
    product: nn.Module
    wigner: WignerMatrices
    rows: Tensor
    into_frame: Tensor
    convolution: SO2Convolution
    sizes: list[int]

    @classmethod
    def random(
        cls,
        max_degree: int,
        channels: int,
        n_edges: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Formulations:
        """Draw edges, features and weights.

        Args:
            max_degree: highest degree L.
            channels: channels in and out.
            n_edges: number of edges.
            generator: source of randomness.
            dtype: precision.
        """

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype)

        directions = nn.functional.normalize(normal(n_edges, 3), dim=-1)
        features = normal(n_edges, (max_degree + 1) ** 2, channels)
        n_paths = len(tensor_product_paths(max_degree))
        weights = normal(n_paths, channels, channels) / math.sqrt(channels)
        wigner = WignerMatrices(max_degree).to(dtype)
        rows = torch.tensor(edge_order(max_degree, max_degree)[0])
        return cls(
            features,
            to_e3nn(features),
            directions,
            edge_harmonics(directions, 2 * max_degree),
            weights.flatten(),
            full_tensor_product(max_degree, channels, channels, dtype),
            wigner,
            rows,
            stack_blocks(wigner(edge_frames(directions)), rows),
            equal_convolution(weights, max_degree).requires_grad_(False),
            order_sizes(max_degree, max_degree),
        )

    def so3(self) -> Tensor:
        """The tensor product by e3nn, in e3nn's order."""
        return cast(Tensor, self.product(self.flat, self.filters, self.weights))

    def so2_alone(self) -> Tensor:
        """The SO(2) convolution, as if the features were in the edge frame already."""
        return torch.cat(self.convolution(torch.split(self.features, self.sizes, 1)), 1)

    def so2(self) -> Tensor:
        """Into the edge frame, SO(2) convolution, and back: `(n_edges, (L+1)^2, channels)`."""
        turned = torch.bmm(self.into_frame, self.features)
        mixed = torch.cat(self.convolution(torch.split(turned, self.sizes, 1)), 1)
        return torch.bmm(self.into_frame.transpose(1, 2), mixed)

    def matrices(self) -> Tensor:
        """The Wigner matrices of the edges, which all layers of a network share."""
        return stack_blocks(self.wigner(edge_frames(self.directions)), self.rows)

    def difference(self) -> float:
        """Largest difference of the two results over the largest result."""
        expected = from_e3nn(self.so3(), self.wigner.max_degree)
        return float((self.so2() - expected).abs().max() / expected.abs().max())


@dataclass(frozen=True, slots=True)
class DegreeTimes:
    """Processor times for one degree.

    Attributes:
        max_degree: highest degree L.
        so3_us: the tensor product, µs per edge, one number per turn.
        so2_alone_us: the SO(2) convolution, the same.
        so2_us: the SO(2) convolution with the turns into and out of the edge frame, the same.
        matrices_us: the Wigner matrices, the same.
        difference: largest relative difference of the results.
    """

    max_degree: int
    so3_us: list[float]
    so2_alone_us: list[float]
    so2_us: list[float]
    matrices_us: list[float]
    difference: float

    def ratios(self) -> list[float]:
        """How many times cheaper the SO(2) formulation is, one number per turn."""
        return [so3 / so2 for so3, so2 in zip(self.so3_us, self.so2_us, strict=True)]


@torch.no_grad()
def time_degree(
    max_degree: int,
    generator: torch.Generator,
    *,
    channels: int = CHANNELS,
    n_edges: int = N_EDGES,
    rounds: int = ROUNDS,
) -> DegreeTimes:
    """Time both formulations, float32, results only, no gradients.

    Args:
        max_degree: highest degree L.
        generator: source of edges, features and weights.
        channels: channels in and out.
        n_edges: number of edges.
        rounds: turns.
    """
    both = Formulations.random(max_degree, channels, n_edges, generator)
    # e3nn's code is compiled in its first calls, before the clock runs.
    difference = both.difference()
    steps = (both.so3, both.so2_alone, both.so2, both.matrices)
    # Twice in each turn, and the second counts: caches are warm for all alike.
    times = cpu_seconds([step for step in steps for _ in range(2)], rounds)[1::2]
    so3, alone, so2, matrices = ([1e6 * s / n_edges for s in mine] for mine in times)
    return DegreeTimes(max_degree, so3, alone, so2, matrices, difference)


def exponent(max_degrees: Sequence[int], costs: Sequence[float]) -> float:
    """Least-squares exponent p of cost ~ (L + 1)^p.

    Args:
        max_degrees: degrees L, at least two different ones.
        costs: cost of each.

    Raises:
        ValueError: if there are fewer than two degrees.
    """
    if len(set(max_degrees)) < 2:
        raise ValueError(f"an exponent needs two different degrees, got {list(max_degrees)}")
    x = [math.log(degree + 1) for degree in max_degrees]
    return statistics.linear_regression(x, [math.log(cost) for cost in costs]).slope


def _exponents(times: Sequence[DegreeTimes]) -> str:
    """The sentence on fitted exponents."""
    degrees = [mine.max_degree for mine in times]
    found = []
    for name, costs in (
        ("SO(3)", [statistics.median(mine.so3_us) for mine in times]),
        ("SO(2) alone", [statistics.median(mine.so2_alone_us) for mine in times]),
        ("SO(2) with rotations", [statistics.median(mine.so2_us) for mine in times]),
    ):
        last = ""
        if len(degrees) > 3:
            last = f", last three {exponent(degrees[-3:], costs[-3:]):.2f}"
        found.append(f"{name} {exponent(degrees, costs):.2f}{last}")
    fitted = ", ".join(map(str, degrees))
    return f"Cost ~ (L + 1)^p, p fitted over L = {fitted}: " + "; ".join(found) + "."


def measure(config: BenchmarkConfig) -> list[Table]:
    """Time both formulations for every degree.

    Args:
        config: rows are degrees L; the first seed draws edges, features and weights.

    Raises:
        ValueError: if a row is not a degree of the table, or the device is not the CPU.
    """
    if config.device != "cpu":
        raise ValueError(f"this benchmark measures processor time, not device {config.device!r}")
    allowed = [str(degree) for degree in DEGREES]
    unknown = [row for row in config.rows if row not in allowed]
    if unknown:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {allowed}")
    degrees = sorted({int(row) for row in config.rows or allowed})
    table = Table(
        "so2",
        f"One convolution, {CHANNELS} channels, {N_EDGES} edges, float32, forward, "
        f"{torch.get_num_threads()} thread(s): processor time per edge, median of {ROUNDS} calls "
        "of each formulation in turn, caches warm. SO(3): tensor product of e3nn with all paths, "
        "harmonics given. SO(2): the same by `egno_md.models.so2_convolution`, weights mapped "
        "exactly, alone and with the rotations into and out of the edge frame, matrices given; "
        "their own cost, once for all layers, stands apart. Ratio: SO(3) over SO(2) with "
        "rotations, median over the turns, with its lower and upper quartile. Difference: of the "
        "two results, relative to the largest.",
        _COLUMNS,
    )
    generator = torch.Generator().manual_seed(config.seeds[0])
    times = [time_degree(degree, generator, rounds=ROUNDS) for degree in degrees]
    for mine in times:
        costs = (mine.so3_us, mine.so2_alone_us, mine.so2_us)
        lower, middle, upper = statistics.quantiles(mine.ratios(), n=4)
        table.add(
            mine.max_degree,
            *(statistics.median(cost) for cost in costs),
            *(Cell(middle), Cell(lower), Cell(upper)),
            *(statistics.median(mine.matrices_us), f"{mine.difference:.0e}"),
        )
    if len(times) > 1:
        table.notes.append(_exponents(times))
    return [table]
