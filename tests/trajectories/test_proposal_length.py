"""Tuning counts independent samples and time, and chooses by their ratio."""

import math

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.metropolised import Metropolised
from egno_md.state import Molecule, State
from egno_md.trajectories import proposal_length
from egno_md.trajectories.metropolised_run import frames_of, lengths_to_try
from egno_md.trajectories.proposal_length import tune_proposal
from egno_md.trajectories.slow_coordinates import slow_distances
from tests.propagators.exact_distributions import KELVIN, Separable, harmonic, rows


class Clock:
    """Processor time that passes only where it is spent, for a cost of one's own choice."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(proposal_length.time, "process_time", lambda: self.now)

    def sampler(self, cost_s, wrong=5.0):
        """Samplers whose proposal of a length costs `cost_s(length)` for all replicas."""
        clock = self

        class Costly(Metropolised):
            def advance(self, state, n_frames=None):
                clock.now += n_frames * cost_s(self.frame_interval_fs)
                return super().advance(state, n_frames)

        def make(length_fs):
            verlet = VelocityVerlet(Separable(harmonic(wrong)), 5.0, length_fs, 1)
            noise = torch.Generator().manual_seed(int(length_fs))
            return Costly(verlet, Separable(harmonic(5.0)), KELVIN, 50.0, noise)

        return make


def tuned(make, lengths, cpu_s):
    return tune_proposal(make, rows(64, 0.05), lengths, cpu_s=cpu_s)


class TestChoice:
    # A carbon on this spring swings in 99 fs, so 25 fs take it from its place to its speed.
    LENGTHS = (5.0, 25.0)

    def test_where_proposals_cost_alike_the_one_that_goes_far_wins(self, monkeypatch):
        found = tuned(Clock(monkeypatch).sampler(lambda _: 1 / 128), self.LENGTHS, 2.0)
        assert found.proposal_fs == 25.0
        short, long = found.trials
        assert short.inefficiency > 2 * long.inefficiency
        assert short.cpu_s_per_proposal == pytest.approx(1 / 128 / 64)
        assert (short.n_proposals, long.n_proposals) == (128 * 64, 128 * 64)
        for trial in found.trials:
            expected = 128 * 64 / trial.inefficiency
            assert trial.effective_per_cpu_s == pytest.approx(expected)
        assert found.cpu_s == pytest.approx(2 * 129 / 128)

    def test_where_far_is_dear_the_short_one_wins(self, monkeypatch):
        cost = {5.0: 0.02, 25.0: 2.0}
        found = tuned(Clock(monkeypatch).sampler(cost.__getitem__), self.LENGTHS, 4.0)
        assert len(found.trials) == 2
        assert found.proposal_fs == 5.0

    def test_what_the_time_does_not_hold_is_not_tried(self, monkeypatch):
        make = Clock(monkeypatch).sampler(lambda length: 0.01 * length)
        found = tuned(make, (40.0, 5.0, 20.0), 3.0)
        assert [trial.proposal_fs for trial in found.trials] == [5.0]

    def test_beyond_a_hopeless_one_nothing_is_tried(self, monkeypatch):
        make = Clock(monkeypatch).sampler(lambda _: 0.01, wrong=250.0)
        found = tuned(make, (25.0, 50.0), 1.0)
        assert found.trials[0].acceptance < 0.02
        assert len(found.trials) == 1

    def test_it_says_what_it_found(self, monkeypatch):
        found = tuned(Clock(monkeypatch).sampler(lambda _: 1 / 64), self.LENGTHS, 2.0)
        assert "proposals of 25 fs, tuned in 2 CPU-seconds" in found.sentence()
        plain = found.to_json()
        assert plain["proposal_fs"] == 25.0
        assert [t["proposal_fs"] for t in plain["trials"]] == [5.0, 25.0]

    @pytest.mark.parametrize(("lengths", "cpu_s"), [((), 1.0), ((5.0,), 0.0), ((5.0,), math.inf)])
    def test_nothing_to_choose_or_no_time(self, lengths, cpu_s):
        with pytest.raises(ValueError, match="tuning needs lengths and a time"):
            tune_proposal(lambda _: None, rows(2), lengths, cpu_s=cpu_s)


def test_inefficiency_of_a_process_that_is_known():
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn((8, 4000, 3), generator=generator, dtype=torch.float64)
    x = torch.zeros_like(noise)
    for k in range(1, 4000):
        x[:, k] = 0.8 * x[:, k - 1] + 0.6 * noise[:, k]
    g, error = proposal_length._inefficiency(7.0 + x * torch.tensor([1e-3, 1.0, 50.0]))
    assert g == pytest.approx(9.0, rel=3 * error)
    assert 0.01 < error < 0.05
    still, unknown = proposal_length._inefficiency(torch.ones(2, 30, 1, dtype=torch.float64))
    assert (still, unknown) == (30.0, 1.0)


def test_slow_coordinates_are_distances_far_apart():
    chain = Molecule.from_numbers([6] * 5, bonds=[(0, 1), (1, 2), (2, 3), (3, 4)])
    x = torch.randn((2, 5, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = State.at_rest(chain, x)
    expected = [(x[:, i] - x[:, j]).norm(dim=-1) for i, j in ((0, 3), (0, 4), (1, 4))]
    torch.testing.assert_close(slow_distances(state)(state), torch.stack(expected, 1))
    pair = State.at_rest(Molecule.from_numbers([6, 6], bonds=[(0, 1)]), x[:, :2])
    assert slow_distances(pair)(pair).shape == (2, 1)
    assert slow_distances(rows(3))(rows(3)).shape == (3, 3)


def test_in_a_cell_they_are_distances_of_nearest_images():
    molecule = Molecule.from_numbers([6, 6], pbc=(True, True, True))
    x = torch.tensor([[[0.1, 0.0, 0.0], [3.9, 0.0, 0.0]]], dtype=torch.float64)
    state = State.at_rest(molecule, x, cell=4.0 * torch.eye(3, dtype=torch.float64))
    assert float(slow_distances(state)(state)) == pytest.approx(0.2)


def test_lengths_are_multiples_of_what_the_proposal_makes():
    verlet = VelocityVerlet(Separable(harmonic(5.0)), 0.5, 3.0, 1)
    assert lengths_to_try(verlet) == (12.0, 24.0, 48.0, 96.0, 192.0, 384.0, 768.0)
    assert frames_of(verlet, 48.0) == 16
    with pytest.raises(ValueError, match=r"is not a multiple of the 3 fs .* for example, 9"):
        frames_of(verlet, 10.0)
