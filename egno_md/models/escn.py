"""eSCN as published (arXiv 2302.03655): energies and direct forces, weight-compatible.

For published weights and comparisons. For dynamics take `escn_md`: here forces are not the
gradient of the energy, messages have no envelope, and an atom sees only its nearest neighbours,
so the energy jumps where these change. One thing differs from the published code: edge frames are
deterministic instead of random, so the same structure gives the same numbers. The grids let
a little of the frame through, which is the scatter that the random frames have.

| symbol | here | |
|---|---|---|
| x_i | features | `(n_atoms, (L+1)^2, channels)`; first Emb(Z_i) at l = 0, zero beyond |
| g(d) | basis | exp(-(d - c_n)^2 / (2 (width spacing)^2)), centres 0 to cutoff |
| s_ik | seen | sum_lm Y_lm(p_k) x_i,lm at points p_k around each atom |
| E | energy | scale 0.001 sum_i mean_k MLP(s_ik) + shift + sum_i E0(Z_i) |
| F_i | forces | scale' mean_k MLP'(s_ik) p_k |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, cast

import torch
from torch import Tensor, nn

from egno_md.models.edge_frame import edge_frames
from egno_md.models.escn_layer import (
    ATOMS_AT_ONCE,
    EdgeView,
    Grids,
    LayerBlock,
    PointReadout,
    degree_primary,
)
from egno_md.models.setting_ranges import check_positive, check_whole_numbers
from egno_md.models.so2_convolution import edge_order
from egno_md.models.sphere_grid import (
    grid_matrices,
    harmonics,
    published_longitudes,
    weighted_points,
)
from egno_md.models.wigner import WignerMatrices, stack_blocks

#: The published network's unit of energy, against which its forces are of order one.
OUTPUT_SCALE: Final = 0.001

#: Gaussians end at exp of this, far below what rounding leaves: numbers so small that processors
#: fall back to slow arithmetic would cost more than the rest of the product they go into.
_LEAST_POWER: Final = -60.0

#: Whole-number settings and the range each may have.
_RANGES: Final = {
    "max_degree": (1, 11),
    "max_order": (0, 11),
    "channels": (1, 1024),
    "hidden_channels": (1, 4096),
    "edge_channels": (1, 4096),
    "n_layers": (1, 64),
    "n_gaussians": (2, 10_000),
    "n_points": (1, 2000),
    "n_elements": (2, 119),
    "max_neighbours": (1, 10_000),
}


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse sizes and scales out of range, naming the setting."""
    check_whole_numbers(settings, _RANGES)
    if settings["max_order"] > settings["max_degree"]:
        raise ValueError(
            f"max_order {settings['max_order']} is above max_degree {settings['max_degree']}"
        )
    check_positive(settings, ("cutoff_A", "basis_width", "energy_scale_eV", "force_scale_eV_A"))
    if not math.isfinite(settings["energy_shift_eV"]):
        raise ValueError(f"energy_shift_eV must be finite, got {settings['energy_shift_eV']}")
    n, energies = settings["n_elements"], settings["reference_energies_eV"]
    if len(energies) not in (0, n) or not all(math.isfinite(e) for e in energies):
        raise ValueError(f"reference_energies_eV must be none, or {n} finite numbers by Z")
    known = settings["elements"]
    if not known or known != sorted(set(known)) or not 1 <= known[0] <= known[-1] < n:
        raise ValueError(f"elements must be atomic numbers from 1 to {n - 1}, got {known}")


class GaussianBasis(nn.Module):
    """Narrow Gaussians of a distance, equally spaced from 0 to the cutoff."""

    def __init__(self, cutoff_A: float, n_gaussians: int, width: float) -> None:
        """Place the centres.

        Args:
            cutoff_A: the last centre, Å.
            n_gaussians: how many.
            width: standard deviation, in units of the spacing.
        """
        super().__init__()
        self.exponent = -0.5 / (width * cutoff_A / (n_gaussians - 1)) ** 2
        self.register_buffer("offset", torch.linspace(0.0, cutoff_A, n_gaussians))
        self.offset: Tensor

    def forward(self, distances: Tensor) -> Tensor:
        """Map `(n_edges,)`, Å, to `(n_edges, n_gaussians)`."""
        powers = (distances[:, None] - self.offset).square() * self.exponent
        return torch.exp(powers.clamp(min=_LEAST_POWER))


class ESCN(nn.Module):
    """Energies and direct forces of flat graphs of atoms."""

    def __init__(
        self,
        *,
        cutoff_A: float = 12.0,
        max_neighbours: int = 20,
        strict_neighbours: bool = True,
        max_degree: int = 6,
        max_order: int = 2,
        n_layers: int = 12,
        channels: int = 128,
        hidden_channels: int = 256,
        edge_channels: int = 128,
        n_gaussians: int = 600,
        basis_width: float = 2.0,
        n_points: int = 128,
        n_elements: int = 90,
        elements: Sequence[int] | None = None,
        energy_scale_eV: float = 1.0,
        energy_shift_eV: float = 0.0,
        force_scale_eV_A: float = 1.0,
        reference_energies_eV: Sequence[float] = (),
    ) -> None:
        """Draw the weights with torch's global generator.

        Args:
            cutoff_A: atoms farther than this do not see each other, Å.
            max_neighbours: an atom hears only so many nearest neighbours.
            strict_neighbours: take exactly so many also where the next is as near.
            max_degree: highest degree L of the features.
            max_order: highest order M kept on edges.
            n_layers: message-passing layers.
            channels: channels of the atom features, C.
            hidden_channels: channels between the two halves of a convolution, H.
            edge_channels: channels of the edge invariants.
            n_gaussians: functions of the distance.
            basis_width: their width, in units of their spacing.
            n_points: points around each atom at which the outputs are read.
            n_elements: rows of the tables of elements; the first is not used.
            elements: atomic numbers the model knows; None: 1 to n_elements - 1.
            energy_scale_eV: what the network's unit of energy stands for, eV.
            energy_shift_eV: added to the energy of every graph, eV.
            force_scale_eV_A: what the network's unit of force stands for, eV/Å.
            reference_energies_eV: added per atom, by atomic number from 0 on, eV; or none.

        Raises:
            ValueError: for settings that do not fit.
        """
        super().__init__()
        known = range(1, n_elements) if elements is None else elements
        self._architecture: dict[str, Any] = {
            "name": "escn",
            "cutoff_A": float(cutoff_A),
            "max_neighbours": max_neighbours,
            "strict_neighbours": bool(strict_neighbours),
            "max_degree": max_degree,
            "max_order": max_order,
            "n_layers": n_layers,
            "channels": channels,
            "hidden_channels": hidden_channels,
            "edge_channels": edge_channels,
            "n_gaussians": n_gaussians,
            "basis_width": float(basis_width),
            "n_points": n_points,
            "n_elements": n_elements,
            "elements": [int(z) for z in known],
            "energy_scale_eV": float(energy_scale_eV),
            "energy_shift_eV": float(energy_shift_eV),
            "force_scale_eV_A": float(force_scale_eV_A),
            "reference_energies_eV": [float(e) for e in reference_energies_eV],
        }
        _check_settings(self._architecture)
        self.max_degree, self.max_order = max_degree, max_order
        self.sphere_embedding = nn.Embedding(n_elements, channels)
        self.distance_expansion = GaussianBasis(cutoff_A, n_gaussians, basis_width)
        sizes = (max_degree, max_order, channels, hidden_channels, edge_channels)
        self.layer_blocks = nn.ModuleList(
            LayerBlock(*sizes, n_gaussians, n_elements) for _ in range(n_layers)
        )
        self.energy_block, self.force_block = PointReadout(channels), PointReadout(channels)
        points = weighted_points(n_points).to(torch.get_default_dtype())
        self.sphere_points = nn.Parameter(points, requires_grad=False)
        seen = nn.Parameter(harmonics(max_degree, points), requires_grad=False)
        self.sphharm_weights = nn.ParameterList([seen])
        self.wigner = WignerMatrices(max_degree)
        self._make_tables()

    def _make_tables(self) -> None:
        """Grids and rows: constants that are made anew rather than kept in files."""
        rows, _ = edge_order(self.max_degree, self.max_order)
        self.register_buffer("edge_rows", torch.tensor(rows), persistent=False)
        self.edge_rows: Tensor
        for name, table in self._exact_tables().items():
            kind = torch.get_default_dtype()
            self.register_buffer(name, table.to(kind), persistent=False)

    def _exact_tables(self) -> dict[str, Tensor]:
        """Grid matrices and reference energies in float64."""
        degree, order = self.max_degree, self.max_order
        back = torch.tensor(degree_primary(degree, order)).argsort()
        on_edges = grid_matrices(degree, order, published_longitudes(degree, order))
        on_atoms = grid_matrices(degree, degree, published_longitudes(degree, degree))
        return {
            "edge_to_grid": on_edges[0][:, back],
            "edge_from_grid": on_edges[1][back],
            "atom_to_grid": on_atoms[0],
            "atom_from_grid": on_atoms[1],
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module; the constants start again from float64, so no digit is lost."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in self._exact_tables().items():
            setattr(self, name, table.to(getattr(self, name)))
        return self

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> ESCN:
        """Build an untrained model from what `architecture` returned.

        Args:
            architecture: constructor arguments, and "name" = "escn".

        Raises:
            ValueError: for another name or an unknown argument.
        """
        settings = dict(architecture)
        name = settings.pop("name", "escn")
        if name != "escn":
            raise ValueError(f'the architecture is {name!r}, ESCN needs "escn"')
        return cls(**settings)

    def architecture(self) -> dict[str, Any]:
        """Return everything needed to build this model again, weights aside; JSON-able."""
        return {k: list(v) if isinstance(v, list) else v for k, v in self._architecture.items()}

    @property
    def cutoff_A(self) -> float:
        """Atoms farther apart than this do not see each other, Å."""
        return float(self._architecture["cutoff_A"])

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model knows."""
        return tuple(self._architecture["elements"])

    def freeze(self) -> None:
        """Prepare for evaluation only: weights are stacked once, and no longer learn."""
        self.requires_grad_(False)
        for layer in self.layer_blocks:
            cast(LayerBlock, layer).message_block.freeze()

    def grids(self) -> Grids:
        """Matrices to and from the grids of edges and atoms."""
        names = ("edge_to_grid", "edge_from_grid", "atom_to_grid", "atom_from_grid")
        return Grids(*(getattr(self, name) for name in names))

    def edges(
        self,
        positions: Tensor,
        numbers: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        frames: Tensor | None = None,
    ) -> EdgeView:
        """Prepare what every layer needs to know of the edges.

        Args:
            positions: `(n, 3)`, Å; float64 is best, differences are taken before the cast.
            numbers: `(n,)` int64, atomic numbers.
            edge_index: `(2, n_edges)` int64, source row then target row.
            shifts: `(n_edges, 3)`, Å, added to the source position.
            frames: `(n_edges, 3, 3)`, rotations that turn each edge onto y; our own when None.
        """
        source, target = edge_index[0], edge_index[1]
        arrows = positions.index_select(0, source) + shifts - positions.index_select(0, target)
        arrows = arrows.to(self.sphere_embedding.weight.dtype)
        distances = arrows.square().sum(-1).sqrt()
        if frames is None:
            frames = edge_frames(arrows / distances[:, None])
        into_frame = stack_blocks(self.wigner(frames.to(arrows)), self.edge_rows)
        return EdgeView(source, target, self.distance_expansion(distances), into_frame, numbers)

    def start(self, numbers: Tensor) -> Tensor:
        """First atom features, `(n, (L+1)^2, channels)`: the element at l = 0, zero beyond."""
        scalars = self.sphere_embedding(numbers)[:, None]
        return nn.functional.pad(scalars, (0, 0, 0, (self.max_degree + 1) ** 2 - 1))

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Read the outputs off the features, in the network's units.

        Args:
            features: `(n, (L+1)^2, channels)`.

        Returns:
            Energies `(n,)`, before the factor 0.001, and forces `(n, 3)`.
        """
        energies, pushes = [], []
        for part in torch.split(features, ATOMS_AT_ONCE):
            seen = self.sphharm_weights[0] @ part
            energies.append(self.energy_block(seen).mean(1))
            pushes.append(self.force_block(seen))
        forces = torch.cat(pushes) @ self.sphere_points / len(self.sphere_points)
        return torch.cat(energies), forces

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        batch: Tensor,
        n_graphs: int,
        frames: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the energy of every graph and the force on every atom.

        Args:
            positions: `(n, 3)`, Å; float64 is best, differences are taken before the cast.
            numbers: `(n,)` int64, atomic numbers.
            edge_index: `(2, n_edges)` int64, source row then target row.
            shifts: `(n_edges, 3)`, Å, added to the source position.
            batch: `(n,)` int64, graph of each atom.
            n_graphs: number of graphs.
            frames: `(n_edges, 3, 3)`, rotations that turn each edge onto y; our own when None.

        Returns:
            `(n_graphs,)` float64, eV, and `(n, 3)` in the network's dtype, eV/Å.
        """
        edges, grids = self.edges(positions, numbers, edge_index, shifts, frames), self.grids()
        features = self.start(numbers)
        for k, layer in enumerate(self.layer_blocks):
            # The first layer sees elements only, and replaces them.
            change = layer(features, edges, grids, k == 0)
            features = features + change if k else change
        atoms, forces = self.read(features)
        settings = self._architecture
        atoms = atoms.double() * (OUTPUT_SCALE * settings["energy_scale_eV"])
        if references := settings["reference_energies_eV"]:
            atoms = atoms + atoms.new_tensor(references).index_select(0, numbers)
        total = atoms.new_full((n_graphs,), settings["energy_shift_eV"])
        return total.index_add(0, batch, atoms), forces * settings["force_scale_eV_A"]
