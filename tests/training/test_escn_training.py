"""Energy and force matching: offsets, batches, and a tiny network that learns eight frames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from egno_md.data.frames import LabelledFrames
from egno_md.models.escn_md import ESCNMD
from egno_md.training.force_matching import (
    ForceMatching,
    Scales,
    energies_and_forces,
    held_out_measures,
    refuse_unknown_elements,
)
from egno_md.training.frame_graphs import EpochBatches, FrameGraphs
from egno_md.training.loop import fit
from egno_md.training.settings import FitSettings
from egno_md.units import KCAL_PER_MOL

torch.set_num_threads(1)

WATER = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], dtype=torch.float64)


def water_frames(n, seed=0, offset=-76.0):
    """Waters shaken about, with springs on all three distances."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    x = (WATER + 0.08 * noise).requires_grad_(True)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    lengths = torch.linalg.vector_norm(x[:, pairs[:, 0]] - x[:, pairs[:, 1]], dim=-1)
    energy = (6.0 * (lengths - torch.tensor([0.96, 0.96, 1.5])).square()).sum(-1)
    (slope,) = torch.autograd.grad(energy.sum(), x)
    numbers = torch.tensor([8, 1, 1])
    return LabelledFrames.stack(numbers, x.detach(), energy.detach() + offset, -slope)


def tiny(scales, **changes):
    torch.manual_seed(0)
    sizes = {"max_degree": 1, "max_order": 1, "channels": 8, "hidden_channels": 8, "n_layers": 2}
    return ESCNMD(
        scales.elements,
        cutoff_A=4.0,
        typical_neighbours=2.0,
        reference_energies_eV=scales.reference_energies_eV,
        energy_scale_eV=scales.force_rms,
        **(sizes | changes),
    )


def test_references_are_the_least_squares_ones():
    water, hydrogen = water_frames(5, offset=0.0), water_frames(4, offset=0.0)
    both = LabelledFrames.join([water, hydrogen])
    # Seven frames of H2O and H2 with known atom energies.
    h2 = LabelledFrames.stack(
        torch.tensor([1, 1]),
        torch.tensor([[[0.0, 0, 0], [0, 0, 0.7 + 0.01 * k]] for k in range(3)]),
        torch.full((3,), 2 * -13.6, dtype=torch.float64),
        torch.zeros(3, 2, 3),
    )
    exact = LabelledFrames.stack(
        torch.tensor([8, 1, 1]),
        both.dense().positions,
        torch.full((9,), -2040.0 + 2 * -13.6, dtype=torch.float64),
        both.dense().forces,
    )
    scales = Scales.of(LabelledFrames.join([h2, exact]))
    assert scales.elements == (1, 8)
    assert scales.reference_energies_eV == pytest.approx((-13.6, -2040.0), rel=1e-10)


def test_batch_is_the_frames_asked_for_with_their_edges():
    frames = water_frames(5)
    mixed = LabelledFrames.join(
        [
            frames,
            LabelledFrames.stack(
                torch.tensor([1, 1]),
                torch.tensor([[[0.0, 0, 0], [0, 0, 0.7]]]),
                torch.zeros(1),
                torch.zeros(1, 2, 3),
            ),
        ]
    )
    graphs = FrameGraphs(mixed, 4.0)
    batch = graphs.batch(torch.tensor([5, 3]))
    assert batch.numbers.tolist() == [1, 1, 8, 1, 1]
    assert batch.batch.tolist() == [0, 0, 1, 1, 1]
    edges = {(int(a), int(b)) for a, b in batch.edge_index.T}
    assert edges == {(0, 1), (1, 0), (2, 3), (3, 2), (2, 4), (4, 2), (3, 4), (4, 3)}
    assert torch.equal(batch.positions[2:], frames.dense().positions[3])
    one = FrameGraphs(frames, 4.0).batch(torch.tensor([3, 1]))
    again = FrameGraphs(mixed, 4.0).batch(torch.tensor([3, 1]))
    model = tiny(Scales.of(frames))
    for mine, theirs in zip(
        energies_and_forces(model, one, training=False),
        energies_and_forces(model, again, training=False),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_every_frame_comes_once_per_epoch_and_the_step_decides():
    batches = EpochBatches(10, 3, seed=1)
    first = torch.cat([batches.indices(k) for k in range(3)])
    assert len(first.unique()) == 9
    second = batches.indices(4)
    fresh = EpochBatches(10, 3, seed=1)
    assert torch.equal(fresh.indices(4), second)
    assert torch.equal(fresh.indices(0), first[:3])
    assert len(EpochBatches(2, 8, seed=0).indices(0)) == 2


class Springs(nn.Module):
    """The very energy the frames were labelled with, moved by a constant."""

    def forward(self, positions, numbers, edge_index, shifts, batch, n_graphs):
        x = positions.view(n_graphs, 3, 3)
        pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
        lengths = torch.linalg.vector_norm(x[:, pairs[:, 0]] - x[:, pairs[:, 1]], dim=-1)
        energy = (6.0 * (lengths - torch.tensor([0.96, 0.96, 1.5])).square()).sum(-1)
        return energy - 76.0 + 3 * KCAL_PER_MOL


def test_measures_of_a_model_that_is_off_by_a_constant():
    measures = held_out_measures(Springs(), FrameGraphs(water_frames(7), 4.0), batch_size=3)
    assert measures["force_mae_kcal_per_mol_A"] == pytest.approx(0.0, abs=1e-9)
    assert measures["energy_mae_kcal_per_mol"] == pytest.approx(3.0)
    assert measures["energy_bias_kcal_per_mol"] == pytest.approx(3.0)
    assert measures["energy_mae_meV_per_atom"] == pytest.approx(1e3 * KCAL_PER_MOL)


def test_tiny_network_learns_eight_frames(tmp_path):
    frames = water_frames(8)
    scales = Scales.of(frames)
    graphs = FrameGraphs(frames, 4.0)
    model, matching = tiny(scales), ForceMatching(scales.force_rms)
    everything = graphs.batch(torch.arange(8))
    before = float(matching(model, everything)[0].detach())

    def validate(network):
        measures = held_out_measures(network, graphs)
        return {"score": measures["force_mae_meV_per_A"], **measures}

    numbers = FitSettings(
        steps=250,
        batch_size=8,
        learning_rate=2e-2,
        warmup_steps=10,
        ema_decay=0.9,
        validate_every=250,
    )
    result = fit(model, lambda step, _: everything, matching, validate, numbers, tmp_path)
    after = float(matching(model, everything)[0].detach())
    assert before > 0.3
    assert after < before / 10
    assert result.best_measures["energy_mae_meV_per_atom"] < 20


def test_elements_missing_from_training_are_named():
    with pytest.raises(ValueError, match=r"elements \[8\] which the training frames lack"):
        refuse_unknown_elements(water_frames(1), [1, 6])


def test_coincident_atoms_are_named_with_their_frame():
    frames = LabelledFrames.join(
        [
            water_frames(1),
            LabelledFrames.stack(
                torch.tensor([1, 1]), torch.zeros(1, 2, 3), torch.zeros(1), torch.zeros(1, 2, 3)
            ),
        ]
    )
    with pytest.raises(ValueError, match="frame 1: atoms 0 and 1"):
        FrameGraphs(frames, 4.0)
