"""Sampling is exact whatever proposes, and what cannot be exact is refused."""

import math

import pytest
import torch

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.metropolised import Metropolised
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import Propagator
from egno_md.segment import MadeBy
from egno_md.state import Molecule, State, kinetic_energy, maxwell_boltzmann
from egno_md.units import EV_PER_AMU_A2_FS2
from tests.propagators.exact_distributions import (
    CARBON,
    KELVIN,
    KOLMOGOROV,
    KT,
    MorseChain,
    Separable,
    boltzmann,
    double_well,
    draws,
    harmonic,
    misfit,
    rows,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sampler(proposal, target, seed=0, friction=1e4, **options):
    return Metropolised(proposal, target, KELVIN, friction, seeded(seed), **options)


#: Targets, wrong potentials that propose, the step, proposals, and where all replicas start, Å.
WELLS = {
    "harmonic": (harmonic(5.0), harmonic(2.0), 6.0, 60, -0.25),
    "double well": (double_well(0.05), double_well(0.02, 0.4), 6.0, 100, 0.0),
}


class TestDistribution:
    @pytest.mark.parametrize("n", [250, 2500])
    @pytest.mark.parametrize("name", sorted(WELLS))
    def test_a_wrong_proposal_samples_the_right_distribution(self, name, n):
        target, wrong, step_fs, count, place = WELLS[name]
        verlet = VelocityVerlet(Separable(wrong), step_fs, 5 * step_fs, 1)
        # All in one place, so that the distribution has to be found.
        propagator = sampler(verlet, Separable(target))
        end = propagator.advance(rows(n, place), count).last
        assert misfit(end.positions, boltzmann(target), -0.8, 0.8) < KOLMOGOROV
        spread = math.sqrt(KT / EV_PER_AMU_A2_FS2 / float(CARBON.masses))
        normal = lambda v: torch.exp(-(v**2) / 2)  # noqa: E731
        assert misfit(end.velocities / spread, normal, -8, 8) < KOLMOGOROV
        counts = propagator.statistics()
        assert counts.proposals == n * count
        assert 0.3 < counts.acceptance < 0.95
        assert abs(counts.acceptance - counts.mean_probability) < 4 / math.sqrt(n * count)

    @pytest.mark.parametrize("name", sorted(WELLS))
    def test_without_accept_and_reject_it_is_wrong(self, name):
        target, wrong, step_fs, count, place = WELLS[name]
        verlet = VelocityVerlet(Separable(wrong), step_fs, 5 * step_fs, 1)
        bath = Thermostatted(verlet, KELVIN, 1e4, seeded())
        end = bath.advance(rows(400, place), 1).last
        for _ in range(count - 1):
            end = bath.advance(end, 1).last
        assert misfit(end.positions, boltzmann(target), -1.6, 1.6) > 2 * KOLMOGOROV

    @pytest.mark.parametrize("n", [250, 2500])
    def test_a_chain_of_morse_bonds_at_zero_momentum(self, n):
        target, wrong = MorseChain(), MorseChain(3.0, 2.2, 1.22)
        molecule = Molecule.from_numbers([1, 6, 8])
        x = torch.zeros((n, 3, 3), dtype=torch.float64)
        x[:, :, 0] = 1.2 * torch.arange(3)
        here = State(molecule, x, maxwell_boltzmann(molecule, n, KELVIN, seeded(1)))
        verlet = VelocityVerlet(wrong, 1.0, 8.0, 1)
        propagator = sampler(verlet, target, friction=200.0, zero_momentum=True)
        end = propagator.advance(here, 100).last
        lengths = (end.positions[:, 1:] - end.positions[:, :-1]).norm(dim=-1)
        assert misfit(lengths, lambda r: r**2 * boltzmann(target.bond)(r), 0.8, 2.2) < KOLMOGOROV
        of_wrong = misfit(lengths, lambda r: r**2 * boltzmann(wrong.bond)(r), 0.8, 2.2)
        # What the proposal samples is told from the target ever better.
        assert of_wrong > 3 * KOLMOGOROV * math.sqrt(n / 500)
        # Six degrees of freedom: K/kT has a gamma distribution of shape 3.
        assert propagator.degrees_of_freedom(molecule) == 6
        kinetic = kinetic_energy(molecule, end.velocities) / KT
        assert misfit(kinetic, lambda k: k**2 * torch.exp(-k), 0.0, 40.0) < KOLMOGOROV
        momentum = (molecule.masses[:, None] * end.velocities).sum(1)
        assert float(momentum.abs().max()) < 1e-12
        centre = (molecule.masses[:, None] * (end.positions - x)).sum(1) / molecule.masses.sum()
        assert float(centre.abs().max()) < 1e-9

    def test_a_bad_proposal_leaves_an_exact_sample_exact(self):
        target, wrong = MorseChain(), MorseChain(3.0, 2.2, 1.23)
        molecule, n = Molecule.from_numbers([1, 6, 8, 1]), 1000
        exact = lambda r: r**2 * boltzmann(target.bond)(r)  # noqa: E731
        arrows = torch.randn((n, 3, 3), generator=seeded(1), dtype=torch.float64)
        lengths = draws((n, 3, 1), exact, 0.8, 2.2, seeded(2))
        x = torch.zeros((n, 4, 3), dtype=torch.float64)
        x[:, 1:] = (arrows / arrows.norm(dim=-1, keepdim=True) * lengths).cumsum(1)
        here = State(molecule, x, maxwell_boltzmann(molecule, n, KELVIN, seeded(3)))
        propagator = sampler(VelocityVerlet(wrong, 1.0, 8.0, 1), target, friction=20.0)
        end = propagator.advance(here, 40).last
        assert 0.1 < propagator.statistics().acceptance < 0.3
        moved = (end.positions - x).flatten(1).abs().amax(1) > 0
        assert float(moved.double().mean()) > 0.6
        found = (end.positions[:, 1:] - end.positions[:, :-1]).norm(dim=-1)
        assert misfit(found, exact, 0.8, 2.2) < KOLMOGOROV
        # Segments alone: every one of these bonds follows the wrong potential.
        alone = Thermostatted(propagator.proposal, KELVIN, 20.0, seeded())
        for _ in range(40):
            here = alone.advance(here, 1).last
        found = (here.positions[:, 1:] - here.positions[:, :-1]).norm(dim=-1)
        assert misfit(found, exact, 0.8, 2.2) > 3 * KOLMOGOROV

    def test_in_a_periodic_cell_positions_are_not_wrapped(self):
        molecule = Molecule.from_numbers([6], pbc=(True, True, True))
        u = lambda x: 0.03 * (1.0 - torch.cos(2.0 * math.pi * x / 2.0))  # noqa: E731
        wrong = lambda x: 0.01 * (1.0 - torch.cos(2.0 * math.pi * x / 2.0))  # noqa: E731
        still, n = rows(1000), 1000
        cell = 2.0 * torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
        here = State(molecule, still.positions, still.velocities, 0.0, cell)
        potential = Separable(u)
        propagator = sampler(VelocityVerlet(Separable(wrong), 20.0, 60.0, 1), potential)
        middle = propagator.advance(here, 40).last
        asked = potential.calls
        segment = propagator.advance(middle, 20)
        assert potential.calls == asked + 20
        assert torch.equal(segment.cell, cell)
        x = segment.positions[:, -1]
        assert float(x.abs().max()) > 2.0
        wrapped = x - 2.0 * (x / 2.0).round()
        assert misfit(wrapped, boltzmann(u), -1.0 - 1e-9, 1.0 + 1e-9) < KOLMOGOROV

    def test_small_refreshes_sample_the_same(self):
        # A stationary start must stay so; rejections then turn velocities back.
        target, n = harmonic(5.0), 2000
        here = rows(n)
        x = math.sqrt(KT / 5.0) * torch.randn((n, 1, 3), generator=seeded(5), dtype=torch.float64)
        verlet = VelocityVerlet(Separable(harmonic(3.0)), 6.0, 30.0, 1)
        propagator = sampler(verlet, Separable(target), friction=2.0)
        segment = propagator.advance(here.with_(positions=x), 40)
        end = segment.last
        assert misfit(end.positions, boltzmann(target), -0.8, 0.8) < KOLMOGOROV
        product = (end.positions * end.velocities).flatten()
        assert abs(float(product.mean() / product.std())) < 4 / math.sqrt(3 * n)
        counts = propagator.statistics()
        # Proposals of one replica are correlated here, so the error is larger than it says.
        assert abs(counts.creutz_average - 1.0) < 10 * counts.creutz_error
        assert counts.creutz_error < 0.01


class TestOneProposal:
    def verlet(self, stiffness=3.0):
        return VelocityVerlet(Separable(harmonic(stiffness)), 5.0, 15.0, 4)

    def test_it_is_a_propagator_with_honest_frames(self):
        propagator = sampler(self.verlet(), Separable(harmonic(5.0)), proposal_frames=2)
        assert isinstance(propagator, Propagator)
        assert not propagator.reversible
        assert not propagator.volume_preserving
        assert propagator.frame_interval_fs == 30.0
        segment = propagator.advance(rows(50, 0.2).with_(time_fs=7.0), 3)
        assert segment.times_fs.tolist() == [37.0, 67.0, 97.0]
        for k in range(3):
            energy = Separable(harmonic(5.0)).energies(segment.frame(k))
            torch.testing.assert_close(segment.potential_energies[:, k], energy)
        assert propagator.advance(rows(2)).n_frames == 10

    def test_rejection_keeps_the_place_and_flips_velocities(self):
        # Nothing but the start is allowed.
        wall = Separable(lambda x: torch.where((x == 0.1), 0.0, torch.inf))
        propagator = sampler(self.verlet(), wall, friction=1e-9)
        here = rows(20, 0.1)
        segment = propagator.advance(here, 2)
        assert torch.equal(segment.positions[:, 1], here.positions)
        torch.testing.assert_close(segment.velocities[:, 0], -here.velocities, rtol=0, atol=1e-6)
        torch.testing.assert_close(segment.velocities[:, 1], here.velocities, rtol=0, atol=1e-6)
        assert bool((segment.made_by == int(MadeBy.GIVEN)).all())
        counts = propagator.statistics()
        assert (counts.accepted, counts.refused, counts.proposals) == (0, 40, 40)

    def test_the_same_potential_in_small_steps_is_accepted_nearly_always(self):
        verlet = VelocityVerlet(Separable(harmonic(5.0)), 0.2, 4.0, 1)
        propagator = sampler(verlet, Separable(harmonic(5.0)))
        segment = propagator.advance(rows(200, 0.1), 5)
        assert propagator.statistics().acceptance > 0.998
        assert bool((segment.made_by == int(MadeBy.INTEGRATOR)).all())

    def test_one_energy_of_the_target_per_proposal(self):
        target = Separable(harmonic(5.0))
        propagator = sampler(self.verlet(), target)
        first = propagator.advance(rows(6, 0.1), 4)
        assert target.calls == 1 + 4
        second = propagator.advance(first.last, 3)
        assert target.calls == 1 + 7
        assert propagator.statistics().target_evaluations == 6 * 8
        moved = second.last.with_(positions=second.last.positions + 1e-9)
        propagator.advance(moved, 1)
        assert target.calls == 1 + 7 + 2

    def test_cut_anywhere_restarted_and_repeated_bit_for_bit(self, assert_same):
        here = rows(5, 0.1)
        make = lambda seed=3: sampler(  # noqa: E731
            self.verlet(), Separable(harmonic(5.0)), seed, friction=5.0
        )
        whole = make().advance(here, 9)
        going = make()
        first = going.advance(here, 4)
        saved = {name: tensor.clone() for name, tensor in going.restart_state().items()}
        rest = going.advance(first.last, 5)
        assert_same(first.join([first, rest]), whole)
        fresh = make(99)
        fresh.restore(saved)
        assert_same(fresh.advance(first.last, 5), rest)
        assert fresh.statistics() == going.statistics()
        assert not torch.equal(make(4).advance(here, 9).positions, whole.positions)

    def test_the_record_of_something_else_is_refused(self):
        with pytest.raises(ValueError, match="not made by Metropolised segments: its counts"):
            sampler(self.verlet(), Separable(harmonic(5.0))).restore({})


class TestFailures:
    def test_a_proposal_that_is_not_finite_is_rejected_and_counted(self, damaged):
        def spoil(segment):
            if segment.n_replicas == 4:
                segment.velocities[2, -1, 0, 1] = float("nan")

        def run(damage):
            verlet = VelocityVerlet(Separable(harmonic(3.0)), 5.0, 30.0, 1)
            propagator = sampler(damaged(verlet, damage), Separable(harmonic(5.0)))
            return propagator, propagator.advance(rows(4, 0.1), 6)

        healthy, spoilt = run(lambda segment: None), run(spoil)
        assert spoilt[0].statistics().failed == 6
        assert healthy[0].statistics().failed == 0
        x, others = spoilt[1].positions, [0, 1, 3]
        assert bool(torch.isfinite(x).all())
        assert bool((x[2] == 0.1).all())
        assert torch.equal(x[others], healthy[1].positions[others])
        assert bool((spoilt[1].made_by[2] == int(MadeBy.GIVEN)).all())

    def test_a_proposal_that_gives_up_is_rejected_and_counted(self):
        class Fragile(Separable):
            def evaluate(self, state):
                if bool((state.positions.abs() > 0.2).any()):
                    raise ValueError("too far out")
                return super().evaluate(state)

        verlet = VelocityVerlet(Fragile(harmonic(3.0)), 5.0, 30.0, 1)
        propagator = sampler(verlet, Separable(harmonic(5.0)))
        # Where it fails depends on the positions alone, so sampling inside stays exact.
        end = propagator.advance(rows(60, 0.05), 12).last
        counts = propagator.statistics()
        assert 0 < counts.failed < counts.proposals / 2
        assert misfit(end.positions, boltzmann(harmonic(5.0)), -0.2, 0.2) < KOLMOGOROV

    def test_a_proposal_that_never_works_is_an_error(self):
        class Broken(Separable):
            def evaluate(self, state):
                raise ValueError("of another molecule")

        verlet = VelocityVerlet(Broken(harmonic(3.0)), 5.0, 30.0, 1)
        with pytest.raises(ValueError, match=r"fails from the very start: .*of another molecule"):
            sampler(verlet, Separable(harmonic(5.0))).advance(rows(3))

    def test_where_the_target_gives_no_energy_nothing_goes(self):
        def half(x):
            return torch.where(x < 0.0, float("nan"), harmonic(5.0)(x))

        verlet = VelocityVerlet(Separable(harmonic(5.0)), 5.0, 30.0, 1)
        propagator = sampler(verlet, Separable(half))
        segment = propagator.advance(rows(100, 0.1), 20)
        assert propagator.statistics().refused > 0
        assert float(segment.positions.min()) >= 0.0
        assert bool(torch.isfinite(segment.potential_energies).all())
        with pytest.raises(ValueError, match="no energy for the start of replica 0 at 0 fs"):
            sampler(verlet, Separable(half)).advance(rows(3, -0.1))

    def test_propagators_with_a_bath_or_a_guard_are_refused(self):
        verlet = VelocityVerlet(Separable(harmonic(3.0)), 5.0, 5.0, 2)
        bath = Langevin(Separable(harmonic(3.0)), 5.0, 5.0, 2, KELVIN, 1.0, seeded())
        for wrong in (
            bath,
            GuardedPropagator(verlet, verlet, []),
            Thermostatted(verlet, 1, 1, seeded()),
        ):
            with pytest.raises(ValueError, match=f"a {type(wrong).__name__} cannot propose"):
                sampler(wrong, Separable(harmonic(5.0)))

    def test_names_of_bundles_are_refused(self):
        verlet = VelocityVerlet(Separable(harmonic(3.0)), 5.0, 5.0, 2)
        with pytest.raises(ValueError, match=r"target is the name 'ethanol-escn', .*from_bundle"):
            sampler(verlet, "ethanol-escn")
        with pytest.raises(ValueError, match="a str cannot propose: a propagator is needed"):
            sampler("ethanol-egno", Separable(harmonic(5.0)))

    def test_a_map_that_lies_is_found_at_the_first_proposal(self, damaged):
        verlet = VelocityVerlet(Separable(harmonic(3.0)), 5.0, 30.0, 1)
        liar = damaged(verlet, lambda segment: segment.velocities.mul_(0.9))
        with pytest.raises(ValueError, match="misses its start by"):
            sampler(liar, Separable(harmonic(5.0))).advance(rows(3, 0.1))

    def test_a_proposal_that_moves_the_centre_cannot_hold_the_momentum(self):
        verlet = VelocityVerlet(Separable(harmonic(3.0)), 5.0, 30.0, 1)
        molecule = Molecule.from_numbers([6, 1])
        x = torch.full((2, 2, 3), 0.1, dtype=torch.float64)
        here = State(molecule, x, maxwell_boltzmann(molecule, 2, KELVIN, seeded()))
        propagator = sampler(verlet, Separable(harmonic(5.0)), zero_momentum=True)
        with pytest.raises(ValueError, match="leave zero_momentum out"):
            propagator.advance(here)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"friction": 0.0}, "friction_per_ps is 0"),
            ({"friction": math.inf}, "friction_per_ps is inf"),
            ({"proposal_frames": 0}, "proposal_frames is 0"),
            ({"n_frames": 0}, "n_frames is 0"),
        ],
    )
    def test_numbers_out_of_range(self, change, message):
        verlet = VelocityVerlet(Separable(harmonic(3.0)), 5.0, 30.0, 1)
        with pytest.raises(ValueError, match=message):
            sampler(verlet, Separable(harmonic(5.0)), **change)
