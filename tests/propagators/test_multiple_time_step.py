from __future__ import annotations

import math
import warnings

import pytest
import torch

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.multiple_time_step import (
    Correction,
    MultipleTimeStep,
    MultipleTimeStepLangevin,
)
from egno_md.roles import EnergyForces, Potential, Propagator
from egno_md.state import Molecule, State, kinetic_energy, maxwell_boltzmann
from egno_md.units import BOLTZMANN_EV_PER_K

KELVIN = 300.0
kT = BOLTZMANN_EV_PER_K * KELVIN


class StiffAndSoft:
    """A bond (stiff, anharmonic) whose two atoms are held by soft quartic wells.

    The cheap one knows the bond but for some per cent, and no quartic part.
    """

    def __init__(self, stiffness=30.0, soft=0.5, quartic=3.0):
        self.stiffness, self.soft, self.quartic = stiffness, soft, quartic
        self.centres = torch.tensor([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]], dtype=torch.float64)

    def _parts(self, state):
        x = state.positions.double()
        arrow = x[:, 0] - x[:, 1]
        length = arrow.norm(dim=-1, keepdim=True)
        return x - self.centres, arrow / length, length - 1.1

    def evaluate(self, state):
        away, along, stretch = self._parts(state)
        pull = -self.stiffness * stretch * along
        forces = torch.stack([pull, -pull], 1) - self.soft * away - self.quartic * away**3
        return EnergyForces(self.energies(state), forces)

    def energies(self, state):
        away, _, stretch = self._parts(state)
        wells = 0.5 * self.soft * away**2 + 0.25 * self.quartic * away**4
        return 0.5 * self.stiffness * stretch[:, 0] ** 2 + wells.sum((1, 2))


ACCURATE = StiffAndSoft()
CHEAP = StiffAndSoft(stiffness=29.0, quartic=0.0)
#: sqrt(mu / k) of the bond in fs: the period of the accurate one is 11.2 fs.
PERIOD_FS = 2 * math.pi / math.sqrt(30.5 * 9.64853e-3 * (1 / 12.011 + 1 / 1.008))


def crowd_of(n, seed=5):
    molecule = Molecule.from_numbers([6, 1], bonds=[(0, 1)])
    generator = torch.Generator().manual_seed(seed)
    x = ACCURATE.centres + 0.05 * torch.randn((n, 2, 3), generator=generator, dtype=torch.float64)
    return State(molecule, x, maxwell_boltzmann(molecule, n, KELVIN, generator))


def two_steps(
    inner_fs=0.5, outer_fs=2.0, interval_fs=4.0, n=4, inner=CHEAP, outer=ACCURATE, **more
):
    return MultipleTimeStep(inner, outer, inner_fs, outer_fs, interval_fs, n, **more)


def bathed(
    inner_fs=0.5,
    outer_fs=2.0,
    interval_fs=4.0,
    n=4,
    inner=CHEAP,
    outer=ACCURATE,
    seed=0,
    friction_per_ps=10.0,
):
    generator = torch.Generator().manual_seed(seed)
    grid = (inner, outer, inner_fs, outer_fs, interval_fs, n)
    return MultipleTimeStepLangevin(
        *grid, KELVIN, friction_per_ps, generator, check_resonance=False
    )


def total_energies(segment):
    return segment.potential_energies + kinetic_energy(segment.molecule, segment.velocities)


def drift_per_ps(propagator, state, length_fs):
    """Spread and slope of the accurate total energy, eV and eV/ps, over all replicas."""
    segment = propagator.advance(state, round(length_fs / propagator.frame_interval_fs))
    total = total_energies(segment)
    t = (segment.times_fs - segment.times_fs.mean()) / 1000
    slope = ((total - total.mean(1, keepdim=True)) * t).sum(1) / t.square().sum()
    return float(total.std(1).square().mean().sqrt()), float(slope.abs().mean())


def test_it_is_a_propagator_and_the_correction_a_potential() -> None:
    assert isinstance(two_steps(), Propagator)
    assert isinstance(bathed(), Propagator)
    assert isinstance(Correction(ACCURATE, CHEAP), Potential)
    assert two_steps().reversible
    assert two_steps().volume_preserving
    assert not bathed().reversible
    assert not bathed().volume_preserving


def test_with_one_potential_it_is_velocity_verlet(assert_same) -> None:
    state = crowd_of(3)
    plain = VelocityVerlet(ACCURATE, 0.5, 4.0, 10).advance(state)
    nested = two_steps(inner=ACCURATE, outer=ACCURATE, n=10).advance(state)
    assert_same(nested, plain)
    bath = torch.Generator().manual_seed(4)
    plain = Langevin(ACCURATE, 0.5, 4.0, 10, KELVIN, 10.0, bath).advance(state)
    nested = bathed(inner=ACCURATE, outer=ACCURATE, n=10, seed=4).advance(state)
    assert_same(nested, plain)


def test_with_one_inner_step_it_is_velocity_verlet_with_the_accurate_potential() -> None:
    state = crowd_of(3)
    plain = VelocityVerlet(ACCURATE, 0.5, 4.0, 10).advance(state)
    nested = two_steps(outer_fs=0.5, n=10).advance(state)
    torch.testing.assert_close(nested.positions, plain.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(nested.potential_energies, plain.potential_energies)


def test_error_is_second_order_in_the_outer_step() -> None:
    state = crowd_of(6)
    # The same inner step, so that nothing but the outer one differs.
    exact = two_steps(0.05, 0.05, 8.0, 1).advance(state).positions

    def error(outer_fs):
        found = two_steps(0.05, outer_fs, 8.0, 1).advance(state).positions
        return float((found - exact).square().mean().sqrt())

    assert error(2.0) / error(1.0) == pytest.approx(4.0, rel=0.15)
    assert error(1.0) / error(0.5) == pytest.approx(4.0, rel=0.15)


def test_it_runs_back_to_its_start() -> None:
    state = crowd_of(4)
    there = two_steps(n=50).advance(state).last
    assert float((there.positions - state.positions).abs().max()) > 0.05
    back = two_steps(n=50).advance(there.with_(velocities=-there.velocities)).last
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-11)
    torch.testing.assert_close(back.velocities, -state.velocities, rtol=0, atol=1e-12)


def test_it_preserves_volume_in_phase_space() -> None:
    molecule = Molecule.from_numbers([6, 1])
    state = crowd_of(1)

    def end(packed):
        x, v = packed.view(2, 1, 2, 3).unbind(0)
        last = two_steps(n=3, check_resonance=False).advance(State(molecule, x, v)).last
        return torch.stack([last.positions, last.velocities]).flatten()

    start = torch.stack([state.positions, state.velocities]).flatten()
    size = torch.tensor([1e-5] * 6 + [1e-6] * 6, dtype=torch.float64)
    columns = [
        (end(start + s * unit) - end(start - s * unit)) / (2 * s)
        for s, unit in zip(size, torch.eye(12, dtype=torch.float64), strict=True)
    ]
    assert float(torch.linalg.det(torch.stack(columns))) == pytest.approx(1.0, abs=1e-6)


def test_fewer_accurate_evaluations_at_equal_energy_drift() -> None:
    state = crowd_of(64)
    plain = VelocityVerlet(ACCURATE, 0.5, 3.0, 1)
    nested = two_steps(0.25, 1.5, 3.0, 1)
    spread, slope = drift_per_ps(plain, state, 900.0)
    mine = drift_per_ps(nested, state, 900.0)
    assert mine[0] <= spread
    assert mine[1] <= slope
    assert nested.evaluations().outer == 601
    assert nested.evaluations().inner == 3601
    assert (900.0 / 0.5 + 1) / nested.evaluations().outer > 2.5


def test_energy_is_shared_equally_between_atoms_and_with_the_positions() -> None:
    propagator = bathed(0.25, 1.5, 9.0, friction_per_ps=40.0)
    state = propagator.advance(crowd_of(1024), 25).last
    kinetic = torch.zeros((2, 3), dtype=torch.float64)
    potential = torch.zeros((2, 3), dtype=torch.float64)
    n_frames = 50
    for _ in range(n_frames):
        state = propagator.advance(state, 1).last
        masses = state.molecule.masses[:, None]
        kinetic += (masses * state.velocities**2).mean(0) * 103.642697 / n_frames
        away = state.positions - ACCURATE.centres
        # <x dU/dx> = kT of every coordinate, the whole potential included.
        potential -= (away * ACCURATE.evaluate(state).forces).mean(0) / n_frames
    assert float((kinetic.mean(1) / kT - 1).abs().max()) < 0.02
    assert float((potential.mean() / kT - 1).abs()) < 0.02


def test_frames_carry_the_accurate_energy() -> None:
    segment = two_steps().advance(crowd_of(3))
    for f in range(segment.n_frames):
        expected = ACCURATE.energies(segment.frame(f))
        torch.testing.assert_close(segment.potential_energies[:, f], expected)
    assert segment.times_fs.tolist() == [4.0, 8.0, 12.0, 16.0]


def test_segments_join_and_restart_bit_for_bit(assert_same) -> None:
    for make in (two_steps, bathed):
        state, short, long = crowd_of(3), make(), make()
        whole = long.advance(state, 6)
        first = short.advance(state, 2)
        saved = {name: tensor.clone() for name, tensor in short.restart_state().items()}
        rest = short.advance(first.last, 4)
        assert_same(first.join([first, rest]), whole)
        fresh = make(seed=9) if make is bathed else make()
        fresh.restore(saved)
        assert_same(fresh.advance(first.last, 4), rest)
        # Counts go on, and the first forces were in the record.
        assert fresh.evaluations() == short.evaluations()
        assert fresh.fastest_period_fs == short.fastest_period_fs
        old = {k: v for k, v in saved.items() if k.split(".")[0] in ("correction", "inner")}
        if make is two_steps:  # an earlier version kept no counts
            fresh = make()
            fresh.restore(old)
            assert_same(fresh.advance(first.last, 4), rest)
            assert fresh.evaluations().outer == 8


def test_a_restarted_run_knows_its_counts_and_warns_again() -> None:
    state = State.at_rest(crowd_of(1).molecule, ACCURATE.centres)
    going, fresh = (two_steps(outer_fs=6.0, interval_fs=12.0, n=1) for _ in "ab")
    with pytest.warns(RuntimeWarning, match="resonates"):
        middle = going.advance(state).last
    fresh.restore(going.restart_state())
    assert fresh.evaluations() == going.evaluations()
    assert fresh.fastest_period_fs == going.fastest_period_fs
    with pytest.warns(RuntimeWarning, match="resonates"):
        fresh.advance(middle)
    assert fresh.evaluations().probing == 24


def test_the_fastest_period_is_found_in_the_potential() -> None:
    propagator = two_steps(inner=StiffAndSoft(stiffness=30.0, soft=0.5, quartic=0.0))
    state = State.at_rest(crowd_of(1).molecule, ACCURATE.centres)
    propagator.advance(state)
    assert propagator.fastest_period_fs == pytest.approx(PERIOD_FS, rel=0.01)
    assert propagator.evaluations().probing == 24
    propagator.advance(state)
    assert propagator.evaluations().probing == 24


@pytest.mark.parametrize(
    ("outer_fs", "said"),
    [(2.0, None), (3.0, None), (3.5, "may drift"), (4.5, "may drift"), (6.0, "resonates")],
)
def test_resonance_is_warned_of(outer_fs, said) -> None:
    state = State.at_rest(crowd_of(1).molecule, ACCURATE.centres)
    propagator = two_steps(outer_fs=outer_fs, interval_fs=2 * outer_fs, n=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        propagator.advance(state)
        propagator.advance(state)
    if said is None:
        assert caught == []
    else:
        assert len(caught) == 1
        assert said in str(caught[0].message)
        # The accurate bond is a little stiffer than the cheap one, whose period is 11.4 fs.
        assert "outer potential has a period of 11.2 fs" in str(caught[0].message)


def test_a_soft_inner_force_hides_no_resonance() -> None:
    state = State.at_rest(crowd_of(1).molecule, ACCURATE.centres)
    soft = StiffAndSoft(stiffness=18.0)
    with pytest.warns(RuntimeWarning, match="outer potential has a period of 11.2 fs"):
        two_steps(0.5, 4.0, 8.0, 1, inner=soft).advance(state)
    # The other way round it is the inner one that is too fast.
    swapped = two_steps(0.5, 4.0, 8.0, 1, inner=ACCURATE, outer=soft)
    with pytest.warns(RuntimeWarning, match="inner potential has a period of 11.2 fs"):
        swapped.advance(state)
    assert (swapped.evaluations().probing, swapped.evaluations().probing_outer) == (24, 24)
    fresh = two_steps(0.5, 4.0, 8.0, 1, inner=ACCURATE, outer=soft)
    fresh.restore(swapped.restart_state())
    assert fresh.evaluations() == swapped.evaluations()


def test_an_inner_step_beyond_the_stability_of_verlet_is_warned_of() -> None:
    """P / pi is 3.56 fs here: warned of from nine tenths of it on."""
    state, still = crowd_of(8), State.at_rest(crowd_of(1).molecule, ACCURATE.centres)

    def warned(step_fs):
        propagator = two_steps(step_fs, step_fs, step_fs, 1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            propagator.advance(still)
        return [str(w.message) for w in caught if "an inner step of" in str(w.message)]

    assert warned(3.0) == []
    (said,) = warned(3.3)
    assert "stable up to 1/pi of it, 3.6 fs" in said

    def run(step_fs):
        propagator = two_steps(step_fs, step_fs, step_fs, 1, check_resonance=False)
        return drift_per_ps(propagator, state, 100 * step_fs)[0]

    assert run(3.0) < 0.2
    with pytest.raises(ValueError, match=r"not finite, in steps of 3.7 fs"):
        run(3.7)


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_the_name_of_a_bundle_is_no_potential(which) -> None:
    with pytest.raises(ValueError, match=f"{which} is the name 'ethanol-distance', which is no po"):
        two_steps(**{which: "ethanol-distance"})
    with pytest.raises(ValueError, match="a VelocityVerlet, which is no potential; open a bundle"):
        two_steps(**{which: VelocityVerlet(ACCURATE, 0.5, 4.0, 1)})
    with pytest.raises(ValueError, match="potential is the name"):
        VelocityVerlet("ethanol-escn", 0.5, 4.0, 1)


def test_the_resonance_is_real() -> None:
    state = crowd_of(16)

    def spread(outer_fs):
        propagator = two_steps(0.25, outer_fs, outer_fs, 1, check_resonance=False)
        return drift_per_ps(propagator, state, 600.0)[0]

    assert spread(5.75) > 10 * spread(3.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inner_fs": 0.3}, "outer step of 2 fs is not a multiple of the inner one of 0.3 fs"),
        ({"inner_fs": 4.0}, "not a multiple"),
        ({"inner_fs": -1.0}, "inner_step_fs is -1.0; it must be a positive number"),
        ({"inner_fs": math.nan}, "inner_step_fs is nan; it must be a positive number"),
        ({"outer_fs": 3.0}, "frame_interval_fs 4.0 is not a multiple of outer_step_fs 3.0; .* 3$"),
        ({"outer_fs": 0.0}, "must be a positive number"),
        ({"n": 0}, "at least one frame"),
    ],
)
def test_impossible_grids_are_refused(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        two_steps(**change)


def test_a_force_that_is_not_finite_is_named() -> None:
    class Broken(StiffAndSoft):
        """Gives up after its first evaluation."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def evaluate(self, state):
            found = super().evaluate(state)
            self.calls += 1
            if self.calls > 1:
                found.forces[0, 1] = math.nan
            return found

    with pytest.raises(ValueError, match="inner potential on atom 1 of replica 0 is not finite"):
        two_steps(inner=Broken(), check_resonance=False).advance(crowd_of(2))
