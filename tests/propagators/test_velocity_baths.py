from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from egno_md.propagators.classical import OrnsteinUhlenbeck
from egno_md.propagators.degrees_of_freedom import without_drift
from egno_md.propagators.velocity_baths import Collisions, StochasticRescaling
from egno_md.state import Molecule, kinetic_energy, maxwell_boltzmann
from egno_md.units import BOLTZMANN_EV_PER_K

MOLECULE = Molecule.from_numbers([6, 1, 8, 1])
KELVIN, N = 300.0, 4000
KT = BOLTZMANN_EV_PER_K * KELVIN


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bath(name: str, rate: float = 5.0, freedom: int = 12):
    if name == "langevin":
        return OrnsteinUhlenbeck(KELVIN, rate, noise())
    if name == "bussi":
        return StochasticRescaling(KELVIN, rate, freedom, noise())
    return Collisions(KELVIN, rate, noise())


def chance(velocities: torch.Tensor, freedom: int) -> float:
    """Probability of such kinetic energies under the canonical distribution."""
    kinetic = kinetic_energy(MOLECULE, velocities).numpy()
    return float(stats.kstest(kinetic, stats.gamma(freedom / 2, scale=KT).cdf).pvalue)


@pytest.mark.parametrize("name", ["langevin", "bussi", "andersen"])
@pytest.mark.parametrize("span_fs", [10.0, 500.0])
def test_the_canonical_distribution_stays(name, span_fs) -> None:
    v = maxwell_boltzmann(MOLECULE, N, KELVIN, noise(1))
    after = bath(name).kicked(MOLECULE, v, span_fs)
    assert not torch.equal(after, v)
    assert chance(after, 12) > 0.01
    # Every component on its own, hydrogen's too.
    masses = MOLECULE.masses[:, None]
    from egno_md.units import EV_PER_AMU_A2_FS2

    each = (masses * EV_PER_AMU_A2_FS2 * after.square()).mean(0) / KT
    assert float((each - 1).abs().max()) < 4 * math.sqrt(2 / N)


@pytest.mark.parametrize("name", ["langevin", "bussi", "andersen"])
def test_a_cold_start_is_warmed(name) -> None:
    v = maxwell_boltzmann(MOLECULE, N, 30.0, noise(1))
    assert chance(v, 12) < 1e-6
    assert chance(bath(name).kicked(MOLECULE, v, 4000.0), 12) > 0.01


@pytest.mark.parametrize("name", ["langevin", "bussi", "andersen"])
def test_it_takes_the_time_it_should(name) -> None:
    v = maxwell_boltzmann(MOLECULE, N, 2 * KELVIN, noise(1))
    rate = 2.5 if name == "langevin" else 5.0  # the energy relaxes at twice the friction
    after = bath(name, rate).kicked(MOLECULE, v, 200.0)
    mean = float(kinetic_energy(MOLECULE, after).mean()) / (6 * KT)
    assert mean == pytest.approx(1 + math.exp(-1), abs=0.04)
    assert torch.equal(bath(name, 0.0).kicked(MOLECULE, v, 200.0), v)


def test_rescaling_keeps_directions_and_a_momentum_of_zero() -> None:
    v = without_drift(MOLECULE, maxwell_boltzmann(MOLECULE, N, 600.0, noise(1)))
    after = bath("bussi", freedom=9).kicked(MOLECULE, v, 4000.0)
    momentum = (MOLECULE.masses[:, None] * after).sum(1)
    assert float(momentum.abs().max()) < 1e-14
    factor = after[:, 0, 0] / v[:, 0, 0]
    torch.testing.assert_close(after, v * factor[:, None, None], rtol=1e-10, atol=0)
    assert chance(after, 9) > 0.01
    # Counting three more than there are would be a wrong temperature.
    assert chance(bath("bussi", freedom=12).kicked(MOLECULE, v, 4000.0), 9) < 1e-6


def test_collisions_are_as_many_as_said_and_whole() -> None:
    v = maxwell_boltzmann(MOLECULE, N, KELVIN, noise(1))
    changed = bath("andersen", 10.0).kicked(MOLECULE, v, 50.0) != v
    assert torch.equal(changed.all(-1), changed.any(-1))
    share = float(changed[..., 0].double().mean())
    assert share == pytest.approx(1 - math.exp(-0.5), abs=4 * math.sqrt(0.25 / (4 * N)))


@pytest.mark.parametrize("name", ["bussi", "andersen"])
def test_a_restart_repeats_the_noise(name) -> None:
    v = maxwell_boltzmann(MOLECULE, 3, KELVIN, noise(1))
    one = bath(name)
    one.kicked(MOLECULE, v, 10.0)
    saved = one.restart_state()
    expected = one.kicked(MOLECULE, v, 10.0)
    other = bath(name)
    other.restore(saved)
    assert torch.equal(other.kicked(MOLECULE, v, 10.0), expected)
    with pytest.raises(ValueError, match="no generator state"):
        other.restore({})


def test_numbers_are_checked() -> None:
    for make, message in (
        (lambda: StochasticRescaling(-1.0, 1.0, 3, noise()), "temperature_K is -1.0"),
        (lambda: StochasticRescaling(1.0, float("inf"), 3, noise()), "rate_per_ps is inf"),
        (lambda: StochasticRescaling(1.0, 1.0, 0, noise()), "degrees_of_freedom is 0"),
        (lambda: Collisions(float("nan"), 1.0, noise()), "temperature_K is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    still = torch.zeros((2, 4, 3), dtype=torch.float64)
    with pytest.raises(ValueError, match="rescaling needs velocities"):
        bath("bussi").kicked(MOLECULE, still, 1.0)


def test_narrow_velocities_stay_narrow() -> None:
    v = maxwell_boltzmann(MOLECULE, 3, KELVIN, noise(1)).float()
    for name in ("bussi", "andersen"):
        assert bath(name).kicked(MOLECULE, v, 100.0).dtype == torch.float32
