r"""Loss and measures of a potential against labelled frames.

.. math::
    L = \frac{1}{f} \Big( w_F \langle | F_i - \hat F_i | \rangle_i
        + \frac{w_E}{1\,Å} \Big\langle \frac{|E - \hat E|}{n} \Big\rangle
        + \frac{w_S}{1\,Å} \Big\langle \frac{V}{n} |\sigma - \hat\sigma| \Big\rangle \Big)

| symbol | here |
|---|---|
| f | `Scales.force_rms`, rms of a force component in the training set, eV/Å |
| w_F, w_E, w_S | `force_weight`, `energy_weight`, `stress_weight` |
| n, V | atoms and volume of the frame |
| sigma | stress; V sigma / n is a virial per atom, of the size of an energy per atom |

The norm of the force error, not its square: it is what the held-out mean absolute error
measures, and rare strained frames do not rule the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egno_md.data.frames import LabelledFrames
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.training.frame_graphs import FrameBatch, FrameGraphs
from egno_md.training.frame_predictions import Predictions, predictions
from egno_md.units import GPA, KCAL_PER_MOL

#: Edges of a held-out batch: some 100 MB of features.
_EDGES_AT_ONCE = 16_384


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
        stress_weight: weight of virials per atom; 0 leaves stresses out.
        compiled: computes energies and forces, where given and no stress is needed.
    """

    force_rms: float
    force_weight: float = 1.0
    energy_weight: float = 1.0
    stress_weight: float = 0.0
    compiled: CompiledGradient | None = None

    def __call__(self, model: nn.Module, batch: FrameBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and measures of a batch; differentiable in the weights.

        Args:
            model: gives the energies.
            batch: labelled frames.

        Raises:
            ValueError: if stresses have a weight and the batch has none.
        """
        stress = self.stress_weight > 0.0
        said = predictions(model, batch, training=True, stress=stress, compiled=self.compiled)
        # The small number keeps the slope of the norm finite at a perfect force.
        force_error = ((said.forces - batch.forces).square().sum(-1) + 1e-12).sqrt().mean()
        energy_error = ((said.energies - batch.energies).abs() / batch.sizes).mean()
        loss = self.force_weight * force_error + self.energy_weight * energy_error
        measures = {
            "force_error_eV_per_A": force_error.detach(),
            "energy_error_eV_per_atom": energy_error.detach(),
        }
        if stress:
            virials = _virial_errors(said, batch)
            virial_error = (virials.square().sum((1, 2)) + 1e-12).sqrt().mean()
            loss = loss + self.stress_weight * virial_error
            measures["virial_error_eV_per_atom"] = virial_error.detach()
        return loss / self.force_rms, measures

    def score(self, measures: Mapping[str, float]) -> float:
        """Held-out errors in one number, weighed as the loss is, meV/Å.

        Args:
            measures: as `held_out_measures` gives them.
        """
        score = self.force_weight * measures["force_mae_meV_per_A"]
        score += self.energy_weight * measures["energy_mae_meV_per_atom"]
        if self.stress_weight > 0.0:
            score += self.stress_weight * measures["virial_mae_meV_per_atom"]
        return score


def _virial_errors(said: Predictions, batch: FrameBatch) -> Tensor:
    """Errors of the virials per atom, `(n_graphs, 3, 3)`, eV."""
    if said.stresses is None or batch.stresses is None or batch.volumes is None:
        raise ValueError("the frames have no stresses")
    per_atom = batch.volumes / batch.sizes
    return (said.stresses - batch.stresses) * per_atom[:, None, None]


def energies_and_forces(
    model: nn.Module, batch: FrameBatch, *, training: bool
) -> tuple[Tensor, Tensor]:
    """Energies `(n_graphs,)` eV and forces `(n, 3)` eV/Å of a model.

    Args:
        model: an `EnergyModel`.
        batch: the frames.
        training: keep the graph, so that the forces can be differentiated in the weights.
    """
    said = predictions(model, batch, training=training)
    return said.energies, said.forces


def held_out_measures(
    model: nn.Module, graphs: FrameGraphs, batch_size: int | None = None
) -> dict[str, float]:
    """Errors of a model on frames it was not trained on.

    Args:
        model: the model.
        graphs: the frames.
        batch_size: frames per evaluation; None takes as many as are done well at once.

    Returns:
        Mean absolute and rms errors of force components, of energies and, where the frames have
        stresses, of their components, in the units named.
    """
    energy_errors, force_errors, sizes, stress_errors, virial_errors = [], [], [], [], []
    stress = graphs.frames.stress is not None
    if batch_size is None:
        batch_size = max(1, min(128, _EDGES_AT_ONCE // max(1, graphs.most_edges)))
    for frames in torch.split(torch.arange(graphs.n_frames), batch_size):
        batch = graphs.batch(frames)
        said = predictions(model, batch, training=False, stress=stress)
        energy_errors.append((said.energies - batch.energies).cpu())
        force_errors.append((said.forces - batch.forces).cpu())
        sizes.append(batch.sizes.cpu())
        if said.stresses is not None and batch.stresses is not None:
            stress_errors.append((said.stresses - batch.stresses).cpu())
            virial_errors.append(_virial_errors(said, batch).cpu())
    measures = error_measures(torch.cat(energy_errors), torch.cat(force_errors), torch.cat(sizes))
    if stress:
        error, virial = torch.cat(stress_errors), torch.cat(virial_errors)
        mae, rmse = float(error.abs().mean()), float(error.square().mean().sqrt())
        measures |= {
            "stress_mae_GPa": mae / GPA,
            "stress_rmse_GPa": rmse / GPA,
            "stress_mae_eV_per_A3": mae,
            "stress_rmse_eV_per_A3": rmse,
            "virial_mae_meV_per_atom": 1e3 * float(virial.abs().mean()),
        }
    return measures


def error_measures(energy: Tensor, force: Tensor, sizes: Tensor) -> dict[str, float]:
    """Measures of errors of energies, eV, and of forces, eV/Å."""
    force_mae = float(force.abs().mean())
    force_rmse = float(force.square().mean().sqrt())
    per_atom = energy / sizes
    return {
        "force_mae_kcal_per_mol_A": force_mae / KCAL_PER_MOL,
        "force_mae_meV_per_A": 1e3 * force_mae,
        "force_rmse_kcal_per_mol_A": force_rmse / KCAL_PER_MOL,
        "force_rmse_meV_per_A": 1e3 * force_rmse,
        "energy_mae_kcal_per_mol": float(energy.abs().mean()) / KCAL_PER_MOL,
        "energy_mae_meV_per_atom": 1e3 * float(per_atom.abs().mean()),
        "energy_rmse_meV_per_atom": 1e3 * float(per_atom.square().mean().sqrt()),
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
