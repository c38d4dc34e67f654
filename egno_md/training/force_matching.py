r"""Loss and measures of a potential against labelled frames.

.. math::
    L = \frac{1}{f} \Big( w_F \langle | F_i - \hat F_i | \rangle_i
        + \frac{w_E}{1\,Å} \Big\langle \frac{|E - \hat E|}{n} \Big\rangle \Big)

| symbol | here |
|---|---|
| f | `Scales.force_rms`, rms of a force component in the training set, eV/Å |
| w_F, w_E | `force_weight`, `energy_weight` |
| n | atoms of the frame |

The norm of the force error, not its square: it is what the held-out mean absolute error
measures, and rare strained frames do not rule the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from egno_md.data.frames import LabelledFrames
from egno_md.training.frame_graphs import FrameBatch, FrameGraphs
from egno_md.units import KCAL_PER_MOL


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


@dataclass(frozen=True, slots=True)
class Scales:
    """Offsets and sizes that are taken out of the data before a network sees it.

    Attributes:
        elements: atomic numbers, ascending.
        reference_energies_eV: energy of an atom of each element, by least squares. Frames of
            one composition do not fix these one by one; their sum is what counts then.
        force_rms: rms of a force component, eV/Å.
    """

    elements: tuple[int, ...]
    reference_energies_eV: tuple[float, ...]
    force_rms: float

    @classmethod
    def of(cls, frames: LabelledFrames) -> Scales:
        """Measure them on the training set.

        Args:
            frames: the training set.

        Raises:
            ValueError: if all forces are zero.
        """
        elements = frames.elements
        frame = torch.arange(frames.n_frames).repeat_interleave(frames.sizes)
        counts = torch.zeros((frames.n_frames, len(elements)), dtype=torch.float64)
        column = torch.searchsorted(torch.tensor(elements), frames.numbers)
        counts.index_put_((frame, column), torch.ones(len(frame), dtype=torch.float64), True)
        # The pseudo-inverse gives the smallest solution where composition leaves it open.
        energies = torch.linalg.pinv(counts) @ frames.energies
        rms = float(frames.forces.square().mean().sqrt())
        if rms == 0.0:
            raise ValueError(f"{frames.source}: all forces are zero; nothing to learn")
        return cls(tuple(elements), tuple(energies.tolist()), rms)


@dataclass(frozen=True, slots=True)
class ForceMatching:
    """The loss, with its weights.

    Attributes:
        force_rms: eV/Å, makes the loss a pure number.
        force_weight: weight of forces.
        energy_weight: weight of energies per atom.
    """

    force_rms: float
    force_weight: float = 1.0
    energy_weight: float = 1.0

    def __call__(self, model: nn.Module, batch: FrameBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and measures of a batch; differentiable in the weights.

        Args:
            model: gives the energies.
            batch: labelled frames.
        """
        energies, forces = energies_and_forces(model, batch, training=True)
        loss, force_error, energy_error = self._terms(energies, forces, batch)
        return loss, {
            "force_error_eV_per_A": force_error.detach(),
            "energy_error_eV_per_atom": energy_error.detach(),
        }

    def _terms(
        self, energies: Tensor, forces: Tensor, batch: FrameBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        # The small number keeps the slope of the norm finite at a perfect force.
        force_error = ((forces - batch.forces).square().sum(-1) + 1e-12).sqrt().mean()
        energy_error = ((energies - batch.energies).abs() / batch.sizes).mean()
        loss = self.force_weight * force_error + self.energy_weight * energy_error
        return loss / self.force_rms, force_error, energy_error


def energies_and_forces(
    model: nn.Module, batch: FrameBatch, *, training: bool
) -> tuple[Tensor, Tensor]:
    """Energies `(n_graphs,)` eV and forces `(n, 3)` eV/Å of a model.

    Args:
        model: an `EnergyModel`.
        batch: the frames.
        training: keep the graph, so that the forces can be differentiated in the weights.
    """
    positions = batch.positions.detach().requires_grad_(True)
    energies: Tensor = model(
        positions, batch.numbers, batch.edge_index, batch.shifts, batch.batch, batch.n_graphs
    )
    (slope,) = torch.autograd.grad(energies.sum(), positions, create_graph=training)
    return (energies if training else energies.detach()), -slope


def held_out_measures(
    model: nn.Module, graphs: FrameGraphs, batch_size: int = 128
) -> dict[str, float]:
    """Errors of a model on frames it was not trained on.

    Args:
        model: the model.
        graphs: the frames.
        batch_size: frames per evaluation.

    Returns:
        Mean absolute and rms errors of force components and of energies, in the units named.
    """
    energy_errors, force_errors, sizes = [], [], []
    for frames in torch.split(torch.arange(graphs.n_frames), batch_size):
        batch = graphs.batch(frames)
        energies, forces = energies_and_forces(model, batch, training=False)
        energy_errors.append((energies - batch.energies).cpu())
        force_errors.append((forces - batch.forces).cpu())
        sizes.append(batch.sizes.cpu())
    energy, force = torch.cat(energy_errors), torch.cat(force_errors)
    force_mae = float(force.abs().mean())
    force_rmse = float(force.square().mean().sqrt())
    return {
        "force_mae_kcal_per_mol_A": force_mae / KCAL_PER_MOL,
        "force_mae_meV_per_A": 1e3 * force_mae,
        "force_rmse_kcal_per_mol_A": force_rmse / KCAL_PER_MOL,
        "energy_mae_kcal_per_mol": float(energy.abs().mean()) / KCAL_PER_MOL,
        "energy_mae_meV_per_atom": 1e3 * float((energy.abs() / torch.cat(sizes)).mean()),
        "energy_bias_kcal_per_mol": float(energy.mean()) / KCAL_PER_MOL,
    }


def refuse_unknown_elements(frames: LabelledFrames, elements: Sequence[int]) -> None:
    """Refuse held-out frames with elements the training set does not have.

    Args:
        frames: held-out frames.
        elements: elements of the training set.

    Raises:
        ValueError: naming the elements.
    """
    if extra := sorted(set(frames.elements) - set(elements)):
        raise ValueError(
            f"{frames.source} has elements {extra} which the training frames lack; "
            f"they have {sorted(elements)}"
        )
