"""A cheap potential's run, weighed, samples the true potential; one too unlike is refused."""

import json
import math

import pytest
import torch

from egno_md.benchmarks import reweighted_reference
from egno_md.benchmarks.reweighted_reference import (
    effective_share,
    log_weights,
    resampled,
    reweighted_record,
)
from egno_md.benchmarks.rollout_reference import RolloutPlan
from egno_md.benchmarks.rollout_subject import Subject
from egno_md.cli import main
from egno_md.roles import EnergyForces
from egno_md.units import BOLTZMANN_EV_PER_K

from .springs import LENGTHS, STIFFNESS, Springs, start
from .test_acceleration import TINY

KELVIN = 300.0


class Stiffer(Springs):
    """Springs that are stiffer by a factor and a little shorter."""

    def __init__(self, factor, shorter_A=0.0):
        self.factor, self.shorter_A = factor, shorter_A

    def evaluate(self, state):
        x, bonds = state.positions, state.molecule.bonds
        along = x[:, bonds[:, 1]] - x[:, bonds[:, 0]]
        length = along.norm(dim=-1)
        off, k = length - LENGTHS + self.shorter_A, self.factor * STIFFNESS
        pull = k * (off / length)[..., None] * along
        forces = torch.zeros_like(x)
        forces.index_add_(1, bonds[:, 0], pull)
        forces.index_add_(1, bonds[:, 1], -pull)
        return EnergyForces(0.5 * k * off.square().sum(-1), forces)


def plan(reference_ps=4.0, n_replicas=8):
    return RolloutPlan(
        KELVIN, 10.0, n_replicas, reference_ps, 0.0, 40, reference_ps, reference_ps / 2, 0, 1
    )


def made(tmp_path, cheap, **kwargs):
    subject = Subject("springs", None, Springs(), "the springs", start(1))
    return reweighted_record(subject, cheap, "stiff springs", plan(**kwargs), tmp_path)


def exact_moments():
    """Mean and spread of each bond of the springs, by quadrature: density r^2 exp(-E / kT)."""
    r = torch.linspace(0.3, 2.5, 20001, dtype=torch.float64)[:, None]
    log = 2 * r.log() - 0.5 * STIFFNESS * (r - LENGTHS).square() / (BOLTZMANN_EV_PER_K * KELVIN)
    w = (log - log.amax(0)).exp()
    w = w / w.sum(0)
    mean = (w * r).sum(0)
    return mean, ((w * r.square()).sum(0) - mean.square()).sqrt()


class TestAgainstQuadrature:
    def test_bonds_are_those_of_the_true_springs(self, tmp_path):
        # The cheap springs are 0.012 Å shorter and a fifth stiffer: dozens of standard errors.
        record = made(tmp_path, Stiffer(1.2, 0.012), reference_ps=12.0)
        mean, spread = exact_moments()
        n = float(record["block_frames"].sum()) * float(record["effective_share"])
        # Frames 128 fs apart at a friction of 10/ps are hardly correlated.
        error = 2.0 * spread / math.sqrt(n)
        assert ((record["bond_mean_A"] - mean).abs() < 3 * error).all()
        assert ((record["bond_mean_A"] - mean + 0.012).abs() > 6 * error).all()
        assert ((record["bond_std_A"] / spread - 1.0).abs() < 3 * 2.0 / math.sqrt(2 * n)).all()
        assert 0.5 < float(record["effective_share"]) < 0.99

    def test_an_exact_copy_keeps_every_frame_once(self, tmp_path):
        record = made(tmp_path, Springs())
        assert float(record["effective_share"]) == pytest.approx(1.0)
        assert set(record["block_frames"].tolist()) == {31}
        assert int(record["n_bad_frames"]) == 0

    def test_rows_start_from_frames_of_the_burn_in_with_warm_velocities(self, tmp_path):
        record = made(tmp_path, Stiffer(1.2))
        x, v = record["start_positions"], record["start_velocities"]
        assert x.shape == v.shape == (8, 3, 3)
        assert len({tuple(one.flatten().tolist()) for one in x}) == 8
        assert float(record["cheap_samples"][0]) > 20.0

    def test_the_same_settings_are_taken_from_the_cache(self, tmp_path, monkeypatch):
        first = made(tmp_path, Stiffer(1.2), reference_ps=1.0)
        monkeypatch.setattr(reweighted_reference, "_made", None)
        again = made(tmp_path, Stiffer(1.2), reference_ps=1.0)
        assert all(torch.equal(first[key], again[key]) for key in first)


class TestRefused:
    def test_a_copy_too_unlike_the_true_potential(self, tmp_path):
        with pytest.raises(ValueError, match=r"stiff springs is too unlike the springs: .* 10%"):
            made(tmp_path, Stiffer(1.0, 0.3))

    def test_frames_that_the_true_potential_refuses_weigh_nothing(self, tmp_path):
        class Short(Springs):
            """Refuses a first bond longer than usual."""

            def energies(self, state):
                length = (state.positions[:, 1] - state.positions[:, 0]).norm(dim=-1)
                if bool((length > LENGTHS[0]).any()):
                    raise ValueError("too long")
                return super().energies(state)

        subject = Subject("springs", None, Short(), "short springs", start(1))
        record = reweighted_record(subject, Springs(), "the springs", plan(), tmp_path)
        assert float(record["bond_max_A"][0]) <= float(LENGTHS[0]) + 1e-6
        assert 0.3 < float(record["effective_share"]) < 0.7

    def test_a_copy_whose_dynamics_fails(self, tmp_path):
        class Broken(Springs):
            def evaluate(self, state):
                if state.n_replicas == reweighted_reference.N_REPLICAS:
                    raise ValueError("energies are not finite")
                return super().evaluate(state)

        with pytest.raises(
            ValueError, match=r"does not carry a reference: .* energies are not finite"
        ):
            made(tmp_path, Broken())


class TestResampling:
    def test_each_frame_is_drawn_about_as_often_as_it_weighs(self):
        generator = torch.Generator().manual_seed(1)
        log = torch.randn((3, 50), generator=generator, dtype=torch.float64)
        log = log - log.flatten().logsumexp(0)
        frames = torch.arange(150.0).reshape(3, 50, 1, 1).expand(3, 50, 2, 3)
        drawn = resampled(frames, log, generator)
        kept = drawn[..., 0, 0][torch.isfinite(drawn[..., 0, 0])].long()
        times = torch.bincount(kept, minlength=150).reshape(3, 50)
        assert int(times.sum()) == 150
        assert (times - 150 * log.exp()).abs().max() < 1.0
        # A row holds its own frames, in their order, and then nothing.
        for k, row in enumerate(drawn[..., 0, 0]):
            finite = row[torch.isfinite(row)]
            assert (finite.diff() >= 0).all()
            assert 50 * k <= float(finite.min())
            assert float(finite.max()) < 50 * (k + 1)
            assert bool(row[len(finite) :].isnan().all())

    def test_weights_and_their_share(self):
        kT = BOLTZMANN_EV_PER_K * KELVIN
        true = torch.tensor([1.0, 1.0 + kT], dtype=torch.float64)
        log = log_weights(true, torch.full((2,), -7.0), KELVIN)
        assert float(log[0] - log[1]) == pytest.approx(1.0)
        assert float(log.exp().sum()) == pytest.approx(1.0)
        assert effective_share(torch.full((4,), math.log(0.25))) == pytest.approx(1.0)
        assert effective_share(torch.tensor([0.0, -100.0, -100.0, -100.0])) == pytest.approx(0.25)


def test_the_benchmark_against_a_reweighted_reference(tmp_path, capsys):
    argv = ["benchmark", "acceleration", *TINY, "--rows", "cheap-32", "--out", str(tmp_path)]
    argv += ["--reference", "reweighted", "--reference-ps", "0.25"]
    assert main(argv) == 0
    read = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "acceleration").glob("*.json")}
    caption = read["acceleration-divergences"]["caption"]
    assert "weighed by energies of ethanol-escn (effective share of the frames: 9" in caption


def test_elsewhere_it_is_refused(tmp_path, capsys):
    argv = ["benchmark", "rollouts", "--reference", "reweighted", "--out", str(tmp_path)]
    assert main(argv) != 0
    assert "reference 'reweighted' is for acceleration" in capsys.readouterr().err
