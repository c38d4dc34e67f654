"""Spectra of motions that are known in closed form."""

import math

import pytest
import torch

from egno_md.state import Molecule
from egno_md.trajectories.vibrations import (
    VibrationCounter,
    spectral_gap,
    spectral_overlap,
    window_frames,
)

LIGHT_CM_PER_FS = 2.99792458e-5
TWO = Molecule.from_numbers(torch.tensor([1, 8]))


def oscillation(per_cm, n_frames=2000, interval_fs=2.0, atom=0, phase=0.3, n_replicas=2):
    """One atom of two that swings along x with unit velocity amplitude."""
    t = interval_fs * torch.arange(n_frames, dtype=torch.float64)
    v = torch.zeros((n_replicas, n_frames, 2, 3), dtype=torch.float64)
    v[:, :, atom, 0] = torch.cos(2 * math.pi * per_cm * LIGHT_CM_PER_FS * t + phase)
    return v


def spectrum(velocities, interval_fs=2.0, n_window=500, pieces=1):
    counter = VibrationCounter(
        TWO, n_replicas=len(velocities), frame_interval_fs=interval_fs, n_window=n_window
    )
    for piece in velocities.chunk(pieces, dim=1):
        counter.add(piece)
    return counter.result()


@pytest.mark.parametrize("per_cm", [400.0, 1700.0, 3650.0])
def test_an_oscillator_shows_at_its_frequency(per_cm):
    found = spectrum(oscillation(per_cm))
    peak = found["vdos_frequency_per_cm"][found["vdos_power"][0].argmax()]
    width = found["vdos_frequency_per_cm"][1]
    assert abs(float(peak - per_cm)) <= 0.5 * float(width) + 1e-9
    near = (found["vdos_frequency_per_cm"] - per_cm).abs() <= 2 * width
    share = found["vdos_power"][0, near].sum() / found["vdos_power"][0].sum()
    assert float(share) > 0.99


def test_a_frequency_above_half_the_frame_rate_is_folded():
    found = spectrum(oscillation(3000.0, interval_fs=10.0), interval_fs=10.0)
    peak = float(found["vdos_frequency_per_cm"][found["vdos_power"][0].argmax()])
    rate = 1 / (10.0 * LIGHT_CM_PER_FS)
    assert peak == pytest.approx(rate - 3000.0, abs=7.0)


def test_power_is_weighted_by_mass():
    light, heavy = (spectrum(oscillation(900.0, atom=k))["vdos_power"][0].sum() for k in (0, 1))
    ratio = float(TWO.masses[1] / TWO.masses[0])
    assert float(heavy / light) == pytest.approx(ratio, rel=1e-9)


def test_the_overlap_of_known_mixtures():
    a, b = oscillation(500.0), oscillation(2500.0)
    # In quadrature on another axis, the powers of two motions add without interference.
    both = a + b.roll(1, dims=-1)
    p, q, mixed = (spectrum(v)["vdos_power"].sum(0) for v in (a, b, both))
    assert float(spectral_overlap(p, 7.0 * p)) == pytest.approx(1.0, abs=1e-12)
    assert float(spectral_overlap(p, q)) < 1e-4
    assert float(spectral_overlap(p, mixed)) == pytest.approx(0.5, abs=1e-3)
    assert float(spectral_gap(p, mixed)) == pytest.approx(0.5, abs=1e-3)


def test_friction_gives_a_lorentzian():
    """The velocity of free diffusion: autocorrelation exp(-g t), so S = 2 g / (g^2 + w^2)."""
    generator = torch.Generator().manual_seed(0)
    n, interval, rate = 40_000, 2.0, 0.02
    c = math.exp(-rate * interval)
    noise = torch.randn((4, n, 2, 3), generator=generator, dtype=torch.float64)
    v, now = torch.empty_like(noise), noise[:, 0]
    for k in range(n):
        now = c * now + math.sqrt(1 - c * c) * noise[:, k]
        v[:, k] = now
    found = spectrum(v, n_window=1000)
    omega = 2 * math.pi * LIGHT_CM_PER_FS * found["vdos_frequency_per_cm"]
    # Of the sampled process, frames at multiples of the interval: the discrete Lorentzian.
    exact = (1 - c * c) / (1 + c * c - 2 * c * torch.cos(omega * interval))
    measured = found["vdos_power"].sum(0)
    assert float(spectral_overlap(measured, exact)) > 0.97
    shifted = 1 / (1 + ((omega - 0.02) / rate).square())
    assert float(spectral_overlap(measured, shifted)) < 0.9


def test_pieces_of_a_run_count_as_the_whole():
    v = oscillation(1200.0, n_frames=1999)
    whole, pieces = spectrum(v), spectrum(v, pieces=13)
    assert torch.allclose(whole["vdos_power"], pieces["vdos_power"], rtol=1e-12)
    assert whole["vdos_windows"].tolist() == [6, 6]


def test_a_failed_replica_is_left_out_from_there_on():
    v = oscillation(1200.0)
    v[1, 900:] = float("nan")
    found = spectrum(v)
    assert found["vdos_windows"].tolist() == [7, 2]
    assert bool(torch.isfinite(found["vdos_power"]).all())


def test_windows_fit_the_run():
    assert window_frames(100_000, 4.0) == 500
    assert window_frames(120, 4.0) == 120
    with pytest.raises(ValueError, match="at least 4 frames, got 3"):
        window_frames(3, 4.0)
    with pytest.raises(ValueError, match="n_window is 2"):
        VibrationCounter(TWO, n_replicas=1, frame_interval_fs=1.0, n_window=2)
