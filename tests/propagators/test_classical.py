from __future__ import annotations

import math

import pytest
import torch

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.roles import EnergyForces, Propagator
from egno_md.segment import MadeBy
from egno_md.state import Molecule, State, kinetic_energy
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2


def langevin(potential, seed=0, **changes):
    settings = {
        "timestep_fs": 0.5,
        "frame_interval_fs": 1.0,
        "n_frames": 4,
        "temperature_K": 300.0,
        "friction_per_ps": 10.0,
    } | changes
    return Langevin(potential, **settings, generator=torch.Generator().manual_seed(seed))


def both(potential):
    return VelocityVerlet(potential, 0.5, 1.0, 4), langevin(potential)


def test_verlet_oscillates_at_its_own_exact_frequency(harmonic) -> None:
    # Discrete solution: x_n = A cos(n w dt), 1 - cos(w dt) = (omega dt)^2 / 2.
    potential = harmonic(20.0)
    molecule = Molecule.from_numbers([1])
    omega = potential.frequency(float(molecule.masses[0]))
    start = State.at_rest(molecule, torch.tensor([[0.2, -0.1, 0.05]], dtype=torch.float64))
    segment = VelocityVerlet(potential, 0.5, 0.5, 1000).advance(start)
    phase = torch.arange(1, 1001, dtype=torch.float64) * math.acos(1 - (omega * 0.5) ** 2 / 2)
    expected = start.positions[0] * phase.cos()[:, None, None]
    torch.testing.assert_close(segment.positions[0], expected, rtol=0, atol=1e-11)
    # ... which is the true frequency but for (omega dt)^2 / 24.
    faster = math.acos(1 - (omega * 0.5) ** 2 / 2) / (0.5 * omega)
    assert faster - 1 == pytest.approx((omega * 0.5) ** 2 / 24, rel=0.03)


def test_verlet_energy_error_is_second_order(harmonic, crowd) -> None:
    potential = harmonic(20.0, quartic=30.0)
    start = potential.energies(crowd) + kinetic_energy(crowd.molecule, crowd.velocities)

    def worst(timestep_fs):
        segment = VelocityVerlet(potential, timestep_fs, 0.4, 500).advance(crowd)
        total = segment.potential_energies + kinetic_energy(crowd.molecule, segment.velocities)
        return float((total - start[:, None]).abs().max())

    assert worst(0.2) / worst(0.1) == pytest.approx(4.0, rel=0.1)
    assert worst(0.1) < 0.002 * float(start.max())


def test_verlet_runs_back_to_its_start(harmonic, crowd) -> None:
    verlet = VelocityVerlet(harmonic(5.0, quartic=40.0), 0.5, 5.0, 100)
    assert verlet.reversible
    assert verlet.volume_preserving
    end = verlet.advance(crowd).last
    assert float((end.positions - crowd.positions).abs().max()) > 0.1
    back = verlet.advance(end.with_(velocities=-end.velocities)).last
    torch.testing.assert_close(back.positions, crowd.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.velocities, -crowd.velocities, rtol=0, atol=1e-10)


def test_verlet_conserves_momentum(dimer_potential, dimers) -> None:
    masses = dimers.molecule.masses[:, None]
    end = VelocityVerlet(dimer_potential, 0.5, 5.0, 50).advance(dimers).last
    drift = (masses * (end.velocities - dimers.velocities)).sum(1)
    assert float(drift.abs().max()) < 1e-14


def test_frames_carry_times_makers_and_energies(harmonic, crowd) -> None:
    for propagator in both(harmonic()):
        assert isinstance(propagator, Propagator)
        segment = propagator.advance(crowd)
        assert segment.times_fs.tolist() == [11.0, 12.0, 13.0, 14.0]
        assert bool((segment.made_by == int(MadeBy.INTEGRATOR)).all())
        for f in range(4):
            expected = harmonic().energies(segment.frame(f))
            assert torch.equal(segment.potential_energies[:, f], expected)
        assert propagator.advance(crowd, 1).n_frames == 1
        assert propagator.advance(crowd, 9).n_frames == 9


def test_two_segments_are_one_long_one_bit_for_bit(harmonic, crowd, assert_same) -> None:
    for short, long in zip(both(harmonic()), both(harmonic()), strict=True):
        whole = long.advance(crowd, 6)
        first = short.advance(crowd, 2)
        joined = first.join([first, short.advance(first.last, 4)])
        assert_same(joined, whole)


def test_a_restarted_run_is_the_uninterrupted_one_bit_for_bit(harmonic, crowd, assert_same) -> None:
    for going, fresh in zip(both(harmonic()), both(harmonic()), strict=True):
        middle = going.advance(crowd).last
        saved = {name: tensor.clone() for name, tensor in going.restart_state().items()}
        expected = going.advance(middle)
        fresh.restore(saved)
        assert_same(fresh.advance(middle), expected)


def test_last_forces_are_used_again_only_at_the_same_positions(
    harmonic, crowd, assert_same
) -> None:
    potential = harmonic()
    verlet = VelocityVerlet(potential, 1.0, 1.0, 1)
    end = verlet.advance(crowd).last
    assert potential.calls == 2
    kept = verlet.advance(end)
    assert potential.calls == 3
    again = VelocityVerlet(potential, 1.0, 1.0, 1).advance(end)
    assert_same(kept, again)
    assert potential.calls == 5
    moved = end.with_(positions=end.positions + 1e-15)
    verlet.advance(moved)
    assert potential.calls == 7
    # Another number of replicas, or another cell, is another start.
    verlet.advance(moved.replica([0, 1]))
    assert potential.calls == 9
    cell = torch.eye(3, dtype=torch.float64).expand(5, 3, 3)
    boxed = verlet.advance(moved.with_(cell=9 * cell)).last
    assert potential.calls == 11
    verlet.advance(boxed)
    assert potential.calls == 12
    verlet.advance(boxed.with_(cell=10 * cell))
    assert potential.calls == 14


def test_replicas_do_not_see_each_other(harmonic, crowd) -> None:
    whole = VelocityVerlet(harmonic(), 0.5, 1.0, 4).advance(crowd)
    alone = VelocityVerlet(harmonic(), 0.5, 1.0, 4).advance(crowd.replica(3))
    assert torch.equal(whole.positions[3], alone.positions[0])


def test_float32_states_stay_float32(harmonic, crowd) -> None:
    narrow = crowd.with_(positions=crowd.positions.float(), velocities=crowd.velocities.float())
    for propagator in both(harmonic()):
        segment = propagator.advance(narrow)
        assert segment.positions.dtype == segment.velocities.dtype == torch.float32
        assert segment.potential_energies.dtype == torch.float64


def test_langevin_without_friction_is_verlet(harmonic, crowd) -> None:
    verlet = VelocityVerlet(harmonic(), 0.5, 1.0, 50).advance(crowd)
    free = langevin(harmonic(), friction_per_ps=0.0, n_frames=50).advance(crowd)
    torch.testing.assert_close(free.positions, verlet.positions, rtol=0, atol=1e-13)


def test_langevin_samples_the_known_distribution_of_the_scheme(harmonic) -> None:
    # A step of BAOAB so long that other splittings would be off by 5 to 25 %: positions have
    # exactly kT/k, velocities kT/m (1 - (omega dt)^2 / 4).
    molecule = Molecule.from_numbers([6] * 10)
    potential = harmonic(30.0)
    timestep_fs = 1.0 / potential.frequency(float(molecule.masses[0]))
    propagator = langevin(
        potential,
        timestep_fs=timestep_fs,
        frame_interval_fs=30 * timestep_fs,
        n_frames=11,
        friction_per_ps=500.0 / timestep_fs,
    )
    start = State.at_rest(molecule, torch.zeros((400, 10, 3), dtype=torch.float64))
    segment = propagator.advance(start)
    n = segment.positions[:, 1:].numel()
    bound = 5 * math.sqrt(2 / n)
    thermal = BOLTZMANN_EV_PER_K * 300.0
    position = float(segment.positions[:, 1:].square().mean()) / (thermal / 30.0)
    mass = float(molecule.masses[0]) * EV_PER_AMU_A2_FS2
    velocity = float(segment.velocities[:, 1:].square().mean()) / (thermal / mass)
    assert bound < 0.025
    assert position == pytest.approx(1.0, abs=bound)
    assert velocity == pytest.approx(0.75, abs=bound)


def test_langevin_noise_depends_on_the_seed_only(harmonic, crowd, assert_same) -> None:
    first, same = langevin(harmonic(), seed=1), langevin(harmonic(), seed=1)
    other = langevin(harmonic(), seed=2)
    assert_same(first.advance(crowd), same.advance(crowd))
    assert not torch.equal(other.advance(crowd).positions, same.advance(crowd).positions)
    assert not first.reversible
    assert not first.volume_preserving


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestep_fs": 0.3}, r"frame_interval_fs 1.0 is not a multiple of timestep_fs 0.3"),
        ({"timestep_fs": 2.0}, r"frame_interval_fs 1.0 is not a multiple of timestep_fs 2.0"),
        ({"timestep_fs": 0.0}, r"timestep_fs is 0.0; it must be a positive"),
        ({"frame_interval_fs": math.nan}, r"frame_interval_fs is nan"),
        ({"n_frames": 0}, r"n_frames is 0"),
        ({"temperature_K": -1.0}, r"temperature_K is -1.0"),
        ({"friction_per_ps": math.inf}, r"friction_per_ps is inf"),
    ],
)
def test_wrong_settings_are_named(harmonic, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        langevin(harmonic(), **changes)


def test_asking_for_no_frames_is_an_error(harmonic, crowd) -> None:
    with pytest.raises(ValueError, match="n_frames is 0; ask for at least one"):
        VelocityVerlet(harmonic(), 0.5, 1.0, 4).advance(crowd, 0)


def test_an_explosion_names_replica_atom_and_time(harmonic, crowd) -> None:
    wild = VelocityVerlet(harmonic(5000.0), 50.0, 100.0, 1000)
    with pytest.raises(
        ValueError, match=r"steps of 50 fs failed at \d+ fs: .* atom \d .*replica 0"
    ):
        wild.advance(crowd)


def test_bad_forces_and_a_refusing_potential_name_the_time(harmonic, crowd) -> None:
    class Broken(type(harmonic())):
        def evaluate(self, state):
            result = super().evaluate(state)
            forces = result.forces.clone()
            if state.time_fs > 11.4:
                forces[2, 1, 0] = math.nan
            return EnergyForces(result.energy, forces)

    class Refusing(type(harmonic())):
        def evaluate(self, state):
            raise ValueError("element C is not known")

    with pytest.raises(ValueError, match=r"at 11.5 fs: the force on atom 1 of replica 2 is \[nan"):
        VelocityVerlet(Broken(), 0.5, 1.0, 4).advance(crowd)
    with pytest.raises(ValueError, match="at 10 fs: element C is not known"):
        VelocityVerlet(Refusing(), 0.5, 1.0, 4).advance(crowd)


def test_a_restart_record_without_generator_is_refused(harmonic) -> None:
    with pytest.raises(ValueError, match="no generator state"):
        langevin(harmonic()).restore({})
