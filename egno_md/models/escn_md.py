"""eSCN for molecular dynamics: energies of molecules and crystals, fit for forces.

After eSCN (arXiv 2302.03655) with the changes that dynamics needs: the energy is one smooth
function of the positions and forces are its gradient; every message ends in a twice
continuous envelope, so no neighbour appears suddenly; activations are gates, exactly
equivariant, without grids on the sphere; edge frames are deterministic and carry gradients.

| step | equation |
|---|---|
| start | x_i = embed(Z_i) + sum_j env(d_ij) D_ij^T [radial(d_ij, Z_i, Z_j) on m = 0] |
| edge | z_ij = D_ij (A x_j + B x_i) * radial(d_ij, Z_i, Z_j) |
| message | m_ij = env(d_ij) D_ij^T SO2'( gate( SO2(z_ij) ) ) |
| atom | x_i += C sum_j m_ij / sqrt(typical neighbours);  x_i += gate network(x_i) |
| energy | E = sum_i ( E0(Z_i) + scale * readout(x_i) ) + repulsion, summed in float64 |

In the edge frame all coefficients with m = 0 are invariant, so the gate of degree l on an edge
is the sigmoid of its own m = 0 coefficient.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from egno_md.models.degree_layers import DegreeGate, DegreeNorm, degree_power
from egno_md.models.edge_blocks import (
    EdgeBlock,
    EdgeBlocks,
    EdgeGeometry,
    Keep,
    SharedRows,
    cut_edges,
)
from egno_md.models.edge_frame import edge_frames
from egno_md.models.edge_message import EdgeMessage
from egno_md.models.radial_basis import RadialBasis, envelope
from egno_md.models.repulsion import Repulsion
from egno_md.models.setting_ranges import check_positive, check_whole_numbers
from egno_md.models.so2_convolution import edge_order
from egno_md.models.wigner import WignerMatrices, stack_blocks

#: Largest atomic number the tables have room for.
_MAX_NUMBER = 118

#: Whole-number settings and the range each may have.
_RANGES = {
    "max_degree": (0, 11),
    "max_order": (0, 11),
    "channels": (1, 1024),
    "hidden_channels": (1, 1024),
    "n_layers": (0, 64),
    "n_radial": (2, 1024),
    "radial_hidden": (1, 4096),
}


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse sizes and scales out of range, naming the setting."""
    check_whole_numbers(settings, _RANGES)
    check_positive(settings, ("cutoff_A", "typical_neighbours", "energy_scale_eV"))
    for name in ("mirror", "repulsion"):
        if not isinstance(settings[name], bool):
            raise ValueError(f"{name} must be true or false, got {settings[name]!r}")
    if not all(math.isfinite(e) for e in settings["reference_energies_eV"]):
        raise ValueError("reference_energies_eV must be finite numbers")


def _checked_elements(
    elements: Sequence[int], reference_energies_eV: Sequence[float] | None
) -> tuple[list[int], list[float]]:
    """Elements and an energy for each, or an error that says what does not fit."""
    known = [int(z) for z in elements]
    if not known or len(set(known)) != len(known) or not set(known) <= set(range(1, 119)):
        raise ValueError(f"elements must be different atomic numbers 1 to 118, got {known}")
    references = [float(e) for e in reference_energies_eV or [0.0] * len(known)]
    if len(references) != len(known):
        raise ValueError(
            f"{len(known)} elements need as many reference energies, got {len(references)}"
        )
    return known, references


class ESCNMD(nn.Module):
    """Energy of flat graphs of atoms; differentiable twice and more in the positions."""

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff_A: float = 5.0,
        max_degree: int = 2,
        max_order: int = 2,
        channels: int = 32,
        hidden_channels: int = 32,
        n_layers: int = 2,
        n_radial: int = 8,
        radial_hidden: int = 64,
        radial_kind: str = "bessel",
        mirror: bool = False,
        typical_neighbours: float = 8.0,
        reference_energies_eV: Sequence[float] | None = None,
        energy_scale_eV: float = 1.0,
        repulsion: bool = False,
    ) -> None:
        """Draw the weights with torch's global generator.

        Args:
            elements: atomic numbers the model knows, each once.
            cutoff_A: atoms farther than this do not see each other, Å.
            max_degree: highest degree L of the features.
            max_order: highest order M kept on edges.
            channels: channels of the atom features.
            hidden_channels: channels on edges.
            n_layers: message-passing layers.
            n_radial: radial basis functions.
            radial_hidden: width of the radial network.
            radial_kind: "bessel" or "gaussian".
            mirror: make the energy invariant to mirror images by construction.
            typical_neighbours: neighbours of an average atom, scales sums.
            reference_energies_eV: energy of each element in order, eV; zeros when None.
            energy_scale_eV: what the network's unit stands for, eV.
            repulsion: add the repulsion of nuclei that are closer than a bond.

        Raises:
            ValueError: for elements, reference energies or sizes that do not fit.
        """
        super().__init__()
        known, references = _checked_elements(elements, reference_energies_eV)
        self._architecture: dict[str, Any] = {
            "name": "escn-md",
            "elements": known,
            "cutoff_A": float(cutoff_A),
            "max_degree": max_degree,
            "max_order": max_order,
            "channels": channels,
            "hidden_channels": hidden_channels,
            "n_layers": n_layers,
            "n_radial": n_radial,
            "radial_hidden": radial_hidden,
            "radial_kind": radial_kind,
            "mirror": mirror,
            "typical_neighbours": float(typical_neighbours),
            "reference_energies_eV": references,
            "energy_scale_eV": float(energy_scale_eV),
            "repulsion": repulsion,
        }
        _check_settings(self._architecture)
        self.cutoff_A = float(cutoff_A)
        #: Edges worked on at a time, and most memory kept of them for the gradient: beyond, what
        #: it needs is made again. A trained network may be told to be lean; see `ESCNPotential`.
        self.edges_at_once, self.kept_bytes = sys.maxsize, float("inf")
        self.max_degree, self.max_order, self.channels = max_degree, max_order, channels
        self.rescale = 1.0 / math.sqrt(typical_neighbours)
        self._make_tables(known, references)
        self.wigner = WignerMatrices(max_degree)
        self.basis = RadialBasis(cutoff_A, n_radial, radial_kind)
        self.embedding = nn.Embedding(len(known), channels)
        self.source_embedding = nn.Embedding(len(known), radial_hidden)
        self.target_embedding = nn.Embedding(len(known), radial_hidden)
        self.radial_first = nn.Linear(n_radial, radial_hidden)
        self.radial_second = nn.Linear(radial_hidden, radial_hidden)
        self.edge_degree = nn.Linear(radial_hidden, (max_degree + 1) * channels)
        message = (max_degree, max_order, channels, hidden_channels, radial_hidden, mirror)
        self._make_layers(n_layers, message, typical_neighbours)
        self.repulsion = Repulsion() if repulsion else None
        self.final_norm = DegreeNorm(max_degree, channels)
        self.readout = nn.Sequential(
            nn.Linear((max_degree + 1) * channels, channels), nn.SiLU(), nn.Linear(channels, 1)
        )

    def _make_layers(
        self,
        n_layers: int,
        message: tuple[int, int, int, int, int, bool],
        typical_neighbours: float,
    ) -> None:
        degree, channels = self.max_degree, self.channels
        self.message_norms, self.messages = nn.ModuleList(), nn.ModuleList()
        self.atom_norms, self.atom_steps = nn.ModuleList(), nn.ModuleList()
        for _ in range(n_layers):
            self.message_norms.append(DegreeNorm(degree, channels))
            self.messages.append(EdgeMessage(*message, typical_neighbours))
            self.atom_norms.append(DegreeNorm(degree, channels))
            self.atom_steps.append(DegreeGate(degree, channels, channels))

    def _make_tables(self, known: list[int], references: list[float]) -> None:
        rows = torch.full((_MAX_NUMBER + 1,), -1, dtype=torch.int64)
        rows[known] = torch.arange(len(known))
        self.register_buffer("element_rows", rows, persistent=False)
        energies = torch.tensor(references, dtype=torch.float64)
        self.register_buffer("reference_energies", energies, persistent=False)
        order, _ = edge_order(self.max_degree, self.max_order)
        self.register_buffer("edge_rows", torch.tensor(order), persistent=False)
        self.element_rows: Tensor
        self.reference_energies: Tensor
        self.edge_rows: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module; reference energies stay float64 whatever the network's dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.reference_energies = torch.tensor(
            self._architecture["reference_energies_eV"],
            dtype=torch.float64,
            device=self.reference_energies.device,
        )
        return self

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> ESCNMD:
        """Build an untrained model from what `architecture` returned.

        Args:
            architecture: constructor arguments, and "name" = "escn-md".

        Raises:
            ValueError: for another name or an unknown argument.
        """
        settings = dict(architecture)
        name = settings.pop("name", "escn-md")
        if name != "escn-md":
            raise ValueError(f'the architecture is {name!r}, ESCNMD needs "escn-md"')
        allowed = set(cls(elements=[1], n_layers=0)._architecture) - {"name"}
        if unknown := sorted(set(settings) - allowed):
            raise ValueError(f"unknown settings {unknown}; known are {sorted(allowed)}")
        if "elements" not in settings:
            raise ValueError("the architecture lists no elements")
        return cls(settings.pop("elements"), **settings)

    def architecture(self) -> dict[str, Any]:
        """Return everything needed to build this model again, weights aside; JSON-able."""
        return {k: list(v) if isinstance(v, list) else v for k, v in self._architecture.items()}

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model knows."""
        return tuple(self._architecture["elements"])

    @property
    def bytes_per_edge(self) -> float:
        """Memory of what a gradient keeps of an edge, about: so many copies a layer."""
        size = self.embedding.weight.element_size()
        n_coefficients = len(self.edge_rows)
        hidden = int(self._architecture["hidden_channels"])
        return 7.5 * size * n_coefficients * hidden * max(1, len(self.messages))

    def _keep(self, n_edges: int) -> Keep:
        """What to keep of so many edges for the gradient, within `kept_bytes`."""
        if n_edges * self.bytes_per_edge <= self.kept_bytes:
            return "all"
        size = self.embedding.weight.element_size()
        both_ways = 2 * len(self.edge_rows) * (self.max_degree + 1) ** 2
        # With their gradients.
        geometry = 2 * size * (both_ways + self.radial_second.out_features)
        return "geometry" if n_edges * geometry <= self.kept_bytes else "nothing"

    def evaluation_bytes(self, n_atoms: int, n_edges: int) -> float:
        """Estimate the memory that energy and forces of a system take.

        Args:
            n_atoms: atoms.
            n_edges: edges, both directions.
        """
        size = self.embedding.weight.element_size()
        features = size * (self.max_degree + 1) ** 2 * self.channels
        of_atoms = n_atoms * features * 6.0 * max(1, len(self.messages))
        # Arrows, shifts, lengths and indices, with their gradients.
        of_edges = n_edges * 400.0
        return of_atoms + of_edges + min(self.kept_bytes, n_edges * self.bytes_per_edge)

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Tensor:
        """Return the energy of every graph.

        Args:
            positions: `(n, 3)`, Å; float64 is best, differences are taken before the cast.
            numbers: `(n,)` int64, atomic numbers.
            edge_index: `(2, n_edges)` int64, source row then target row, both directions.
            shifts: `(n_edges, 3)`, Å, added to the source position.
            batch: `(n,)` int64, graph of each atom.
            n_graphs: number of graphs.

        Returns:
            `(n_graphs,)` float64, eV.
        """
        source, target = edge_index[0], edge_index[1]
        rows = self.element_rows.index_select(0, numbers)
        arrows = positions.index_select(0, source) + shifts - positions.index_select(0, target)
        arrows = arrows.to(self.embedding.weight.dtype)
        distances = arrows.square().sum(-1).sqrt()
        cuts = cut_edges(target, len(rows), self.edges_at_once)
        sizes = [cut.edges[1] - cut.edges[0] for cut in cuts]
        parts = list(zip(*(torch.split(x, sizes) for x in (arrows, distances)), strict=True))
        ends = list(zip(*(torch.split(x, sizes) for x in (source, target)), strict=True))
        edges = EdgeBlocks(
            cuts,
            lambda k: self._geometry(cuts[k], rows, *parts[k], *ends[k]),
            self._keep(len(target)),
        )
        features = self._start(rows, edges)
        for layer in range(len(self.messages)):
            features = self._layer(layer, features, edges)
        atoms = self._atom_energies(self.final_norm(features), rows)
        if self.repulsion is not None:
            pairs = self.repulsion(
                distances, numbers.index_select(0, source), numbers.index_select(0, target)
            )
            # Every pair is there in both directions.
            atoms = atoms.index_add(0, target, 0.5 * pairs.to(torch.float64))
        total: Tensor = atoms.new_zeros(n_graphs).index_add(0, batch, atoms)
        return total

    def _layer(self, layer: int, features: Tensor, edges: EdgeBlocks) -> Tensor:
        """One layer: messages, then a step on every atom."""
        message = cast(EdgeMessage, self.messages[layer])
        atom_step = cast(DegreeGate, self.atom_steps[layer])
        norm, atom_norm = self.message_norms[layer], self.atom_norms[layer]

        def shares(features: Tensor) -> tuple[Tensor, Tensor]:
            return message.shares(norm(features))

        def stepped(features: Tensor, received: Tensor) -> Tensor:
            features = features + message.mixed(received)
            after: Tensor = features + atom_step(atom_norm(features))
            return after

        sent, kept = edges.made_again(shares, features)
        senders, own = SharedRows(sent, len(edges.cuts)), edges.of_atoms(kept)

        def received(block: EdgeGeometry, k: int) -> Tensor:
            return message.received(senders.rows(block.source), own[k], block)

        after: Tensor = edges.made_again(stepped, features, edges.gather(received))
        return after

    def _geometry(
        self,
        cut: EdgeBlock,
        rows: Tensor,
        arrows: Tensor,
        distances: Tensor,
        source: Tensor,
        target: Tensor,
    ) -> EdgeGeometry:
        """What a block knows of its edges; rows are those of all atoms in the embeddings."""
        ends = envelope(distances, self.cutoff_A)[:, None, None]
        wigner = self.wigner(edge_frames(arrows / distances[:, None]))
        into_frame = stack_blocks(wigner, self.edge_rows)
        return EdgeGeometry(
            into_frame,
            into_frame.transpose(1, 2) * ends,
            self._edge_invariants(distances, rows, source, target),
            source,
            target - cut.atoms[0],
            cut.n_atoms,
        )

    def _edge_invariants(
        self, distances: Tensor, rows: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """Features of an edge that depend on its length and its two elements."""
        hidden = self.radial_first(self.basis(distances))
        hidden = hidden + self.source_embedding(rows.index_select(0, source))
        hidden = hidden + self.target_embedding(rows.index_select(0, target))
        hidden = self.radial_second(nn.functional.silu(hidden))
        return nn.functional.silu(hidden)

    def _start(self, rows: Tensor, edges: EdgeBlocks) -> Tensor:
        """First atom features: the element, and the directions of the neighbours."""
        n_m0 = self.max_degree + 1

        def directions(block: EdgeGeometry, _: int) -> Tensor:
            weights = self.edge_degree(block.invariants)
            weights = weights.view(len(block.source), n_m0, self.channels)
            seen = torch.bmm(block.out_of_frame[:, :, :n_m0], weights)
            start = seen.new_zeros((block.n_atoms, *seen.shape[1:]))
            return start.index_add(0, block.target, seen)

        start = edges.gather(directions) * self.rescale
        scalars = self.embedding(rows)[:, None] + start[:, :1]
        return torch.cat((scalars, start[:, 1:]), 1)

    def _atom_energies(self, features: Tensor, rows: Tensor) -> Tensor:
        """Energy of every atom, `(n,)` float64, eV."""
        seen = torch.cat((features[:, 0], degree_power(features)), 1)
        scale = float(self._architecture["energy_scale_eV"])
        atoms = self.readout(seen)[:, 0].to(torch.float64) * scale
        own: Tensor = atoms + self.reference_energies.index_select(0, rows)
        return own
