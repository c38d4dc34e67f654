"""Energies, forces and stresses of batches, compiled and filled ones too."""

import pytest
import torch
from torch import nn

from egno_md.data.frames import LabelledFrames
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.escn_md import ESCNMD
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.state import Molecule, State
from egno_md.training.force_matching import ForceMatching, held_out_measures
from egno_md.training.frame_graphs import FrameGraphs, epoch_sampler
from egno_md.training.frame_predictions import predictions

torch.set_num_threads(1)

SIZES = {"max_degree": 1, "max_order": 1, "channels": 4, "hidden_channels": 4, "n_layers": 1}


def crystals(stress=True, n=3):
    """Two atoms in a skewed cell, shaken; labels are zeros."""
    generator = torch.Generator().manual_seed(0)
    cell = torch.tensor([[3.2, 0.0, 0.0], [0.4, 3.1, 0.0], [0.0, -0.3, 3.4]], dtype=torch.float64)
    places = torch.tensor([[0.1, 0.2, 0.0], [1.6, 1.5, 1.8]], dtype=torch.float64)
    noise = 0.2 * torch.randn(n, 2, 3, generator=generator, dtype=torch.float64)
    return LabelledFrames.stack(
        torch.tensor([3, 14]),
        places + noise,
        torch.zeros(n),
        torch.zeros(n, 2, 3),
        cell=cell.repeat(n, 1, 1),
        pbc=torch.ones((n, 3), dtype=torch.bool),
        stress=torch.zeros((n, 3, 3), dtype=torch.float64) if stress else None,
    )


def network(seed=0, **changes):
    torch.manual_seed(seed)
    options = {"cutoff_A": 3.5, "typical_neighbours": 8.0} | SIZES | changes
    return ESCNMD([3, 14], **options).double()


def test_stress_is_the_potentials_virial_over_the_volume():
    frames, model = crystals(), network()
    batch = FrameGraphs(frames, model.cutoff_A).batch(torch.arange(3))
    said = predictions(model, batch, training=False, stress=True)
    masses = torch.tensor([7.0, 28.0], dtype=torch.float64)
    molecule = Molecule(torch.tensor([3, 14]), masses, pbc=(True, True, True))
    state = State.at_rest(molecule, frames.dense().positions, cell=frames.cell)
    asked = ESCNPotential(model).evaluate(state, virial=True)
    volume = torch.linalg.det(frames.cell).abs()[:, None, None]
    torch.testing.assert_close(said.stresses, -asked.virial / volume, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(said.forces, asked.forces.reshape(-1, 3), rtol=1e-9, atol=1e-12)
    assert float(said.stresses.abs().max()) > 1e-4


def test_stress_is_the_slope_of_the_energy_in_the_strain():
    frames, model = crystals(), network()
    batch = FrameGraphs(frames, model.cutoff_A).batch(torch.arange(3))
    said = predictions(model, batch, training=False, stress=True)
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[0, 2] = strain[2, 0] = 0.5e-4
    energies = []
    for sign in (1.0, -1.0):
        bent = torch.eye(3, dtype=torch.float64) + sign * strain
        moved = FrameGraphs(
            LabelledFrames.stack(
                torch.tensor([3, 14]),
                frames.dense().positions @ bent,
                frames.energies,
                frames.dense().forces,
                cell=frames.cell @ bent,
                pbc=frames.pbc,
            ),
            model.cutoff_A,
        )
        energies.append(predictions(model, moved.batch(torch.arange(3)), training=False).energies)
    slope = (energies[0] - energies[1]) / 2e-4
    torch.testing.assert_close(said.stresses[:, 0, 2] * batch.volumes, slope, rtol=1e-4, atol=1e-7)


def test_loss_on_stresses_pulls_on_the_weights_alone():
    frames, model = crystals(), network()
    batch = FrameGraphs(frames, model.cutoff_A).batch(torch.arange(3))
    matching = ForceMatching(1.0, 0.0, 0.0, stress_weight=2.0)
    loss, measures = matching(model, batch)
    said = predictions(model, batch, training=False, stress=True)
    virials = said.stresses * (batch.volumes / 2)[:, None, None]
    expected = 2.0 * virials.flatten(1).norm(dim=1).mean()
    torch.testing.assert_close(loss.detach(), expected)
    assert measures["virial_error_eV_per_atom"] == pytest.approx(float(expected) / 2.0)
    (slope,) = torch.autograd.grad(loss, model.radial_first.weight)
    with torch.no_grad():
        place = slope.abs().argmax()
        values = []
        for step in (1e-5, -1e-5):
            weight = model.radial_first.weight.view(-1)
            weight[place] += step
            with torch.enable_grad():
                values.append(float(matching(model, batch)[0].detach()))
            weight[place] -= step
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(slope.view(-1)[place]), rel=1e-4)


class Squeezed(nn.Module):
    """Energy of so much per volume, found through one edge vector per axis: p V."""

    def forward(self, positions, numbers, edge_index, shifts, batch, n_graphs):
        # The three shifts of largest size along x, y, z span the cubic cell of these frames.
        energies = []
        for k in range(n_graphs):
            mine = shifts[batch[edge_index[1]] == k]
            edges = [mine[(mine[:, a] > 1.0) & (mine.abs().sum(1) < 3.1)][0] for a in range(3)]
            energies.append(0.02 * torch.linalg.det(torch.stack(edges)))
        return torch.stack(energies) + 0.0 * positions.sum()


def test_measures_of_stresses_have_their_units():
    n = 2
    frames = LabelledFrames.stack(
        torch.tensor([3]),
        torch.zeros(n, 1, 3),
        torch.full((n,), 0.02 * 27.0),
        torch.zeros(n, 1, 3),
        cell=3.0 * torch.eye(3, dtype=torch.float64).repeat(n, 1, 1),
        pbc=torch.ones((n, 3), dtype=torch.bool),
        stress=torch.zeros(n, 3, 3, dtype=torch.float64),
    )
    measures = held_out_measures(Squeezed(), FrameGraphs(frames, 3.05))
    # An energy of 0.02 eV/Å^3 is that pressure on the diagonal, and nothing off it.
    assert measures["stress_mae_eV_per_A3"] == pytest.approx(0.02 / 3)
    assert measures["stress_rmse_eV_per_A3"] == pytest.approx(0.02 / 3**0.5)
    assert measures["stress_mae_GPa"] == pytest.approx(160.21766 * 0.02 / 3, rel=1e-6)
    assert measures["virial_mae_meV_per_atom"] == pytest.approx(1e3 * 27.0 * 0.02 / 3)
    assert measures["energy_rmse_meV_per_atom"] == pytest.approx(0.0, abs=1e-4)
    score = ForceMatching(1.0, 1.0, 1.0, 2.0).score(measures)
    assert score == pytest.approx(2.0 * measures["virial_mae_meV_per_atom"], rel=1e-4)
    without = FrameGraphs(crystals(stress=False), 3.5)
    assert "stress_mae_GPa" not in held_out_measures(network(), without)
    with pytest.raises(ValueError, match="these have none"):
        ForceMatching(1.0, stress_weight=1.0)(network(), without.batch(torch.arange(2)))


def test_filled_batches_change_nothing_and_have_one_shape():
    graphs, model = FrameGraphs(crystals(), 3.5), network(repulsion=True)
    plain = graphs.batch(torch.arange(3))
    n_edges = plain.edge_index.shape[1]
    filled = graphs.batch(torch.arange(3), n_edges + 17)
    assert filled.edge_index.shape == (2, n_edges + 17)
    for training in (False, True):
        mine = predictions(model, filled, training=training, stress=True)
        theirs = predictions(model, plain, training=training, stress=True)
        for name in ("energies", "forces", "stresses"):
            torch.testing.assert_close(
                getattr(mine, name), getattr(theirs, name), rtol=1e-11, atol=1e-12
            )
    with pytest.raises(ValueError, match="cannot be filled"):
        graphs.batch(torch.arange(3), n_edges - 1)
    sample = epoch_sampler(graphs, 2, seed=1, filled=True)
    shapes = {sample(k, torch.Generator()).edge_index.shape for k in range(4)}
    assert shapes == {(2, 2 * graphs.most_edges)}


def test_traced_loss_and_slopes_are_the_same(monkeypatch):
    # What would be compiled runs as it was traced; compilers are tested elsewhere.
    monkeypatch.setattr("torch.compile", lambda traced, **options: traced)
    graphs, model = FrameGraphs(crystals(stress=False), 3.5), network()
    batch = graphs.batch(torch.arange(3), 3 * graphs.most_edges)
    slopes = []
    for compiled in (None, CompiledGradient(strict=True)):
        model.zero_grad()
        loss, _ = ForceMatching(0.5, 1.0, 2.0, compiled=compiled)(model, batch)
        loss.backward()
        flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        slopes.append(torch.cat([loss.detach()[None], *flat]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-12)
    assert float(slopes[0].abs().max()) > 1e-3
