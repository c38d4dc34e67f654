r"""What a potential says of a batch of frames: energies, forces and stresses.

.. math::
    F_i = -\frac{\partial E}{\partial r_i}, \qquad
    \sigma = \frac{1}{V} \frac{\partial E}{\partial \varepsilon}, \qquad
    r \to r (1 + \varepsilon)

| symbol | here |
|---|---|
| epsilon | `strain`, symmetric, of positions and of the shifts of edges through the cell |
| V | `FrameBatch.volumes` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.training.frame_graphs import FrameBatch


class EnergyModel(Protocol):
    """A network that gives energies of flat graphs; see `ESCNMD.forward`."""

    def __call__(
        self,
        positions: Tensor,
        numbers: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Tensor:
        """Return energies `(n_graphs,)`, eV."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model says of a batch.

    Attributes:
        energies: `(n_graphs,)` float64, eV.
        forces: `(n, 3)` float64, eV/Å.
        stresses: `(n_graphs, 3, 3)` float64, eV/Å^3, or None.
    """

    energies: Tensor
    forces: Tensor
    stresses: Tensor | None = None


def predictions(
    model: nn.Module,
    batch: FrameBatch,
    *,
    training: bool,
    stress: bool = False,
    compiled: CompiledGradient | None = None,
) -> Predictions:
    """Energies, forces and, where asked for, stresses of a batch.

    Args:
        model: an `EnergyModel`.
        batch: the frames.
        training: keep the graph, so that all can be differentiated in the weights.
        stress: also stresses; the batch must have volumes.
        compiled: computes energies and forces in its way, where it can and no stress is needed.

    Raises:
        ValueError: if stresses are asked for and the batch has none to compare with.
    """
    if not stress and compiled is not None:
        found = _compiled(model, batch, compiled)
        if found is not None:
            return found
    volumes = batch.volumes
    if stress and volumes is None:
        raise ValueError("stresses need frames with stresses and a cell; these have none")
    positions = batch.positions.detach().requires_grad_(True)
    places, shifts, wanted = positions, batch.shifts, [positions]
    if stress:
        strain = positions.new_zeros((batch.n_graphs, 3, 3)).requires_grad_(True)
        places, shifts = _strained(batch, positions, 0.5 * (strain + strain.mT))
        wanted.append(strain)
    energies: Tensor = model(
        places, batch.numbers, batch.edge_index, shifts, batch.batch, batch.n_graphs
    )
    slopes = torch.autograd.grad(energies.sum(), wanted, create_graph=training)
    stresses = None
    if stress and volumes is not None:
        stresses = slopes[1] / volumes[:, None, None]
    return Predictions(energies if training else energies.detach(), -slopes[0], stresses)


def _strained(batch: FrameBatch, positions: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and shifts with a small strain of every frame, `(n_graphs, 3, 3)`."""
    of_atoms = strain.index_select(0, batch.batch)
    of_edges = of_atoms.index_select(0, batch.edge_index[1])
    places = positions + torch.bmm(positions[:, None], of_atoms)[:, 0]
    return places, batch.shifts + torch.bmm(batch.shifts[:, None], of_edges)[:, 0]


class _FlatGraphs(nn.Module):
    """An `EnergyModel` of so many graphs, called with tensors only."""

    def __init__(self, model: nn.Module, n_graphs: int) -> None:
        super().__init__()
        self.model, self.n_graphs = model, n_graphs

    def forward(
        self, positions: Tensor, numbers: Tensor, edge_index: Tensor, shifts: Tensor, batch: Tensor
    ) -> Tensor:
        energies: Tensor = self.model(positions, numbers, edge_index, shifts, batch, self.n_graphs)
        return energies


def _compiled(
    model: nn.Module, batch: FrameBatch, compiled: CompiledGradient
) -> Predictions | None:
    found = compiled.with_values(
        _FlatGraphs(model, batch.n_graphs),
        batch.positions,
        (batch.numbers, batch.edge_index, batch.shifts, batch.batch),
        torch.ones_like(batch.energies),
    )
    return None if found is None else Predictions(found[1], -found[0])
