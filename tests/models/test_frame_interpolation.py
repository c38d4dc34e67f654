import math

import pytest
import torch
from torch import Tensor

from egno_md.models.frame_interpolation import hermite_weights, interpolate, steps_to_cover

STEP_FS = 4.0


def oscillation(period_fs: float, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Position, velocity and acceleration `(1, n, 1, 3)` of something that swings along x."""
    w = 2 * math.pi / period_fs
    along = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    parts = (torch.cos(w * times), -w * torch.sin(w * times), -w * w * torch.cos(w * times))
    x, v, a = (part[None, :, None, None] * along for part in parts)
    return x, v, a


def grid(n: int) -> Tensor:
    return STEP_FS * torch.arange(n, dtype=torch.float64)


def test_weights_reproduce_polynomials_of_fifth_degree() -> None:
    s = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    at, slope = hermite_weights(s)
    for n in range(6):
        given = [0.0**n, float(n == 1), 2.0 * (n == 2), 1.0, float(n), float(n * (n - 1))]
        known = torch.tensor(given, dtype=torch.float64)
        torch.testing.assert_close(at @ known, s**n, rtol=0, atol=1e-14)
        torch.testing.assert_close(slope @ known, n * s ** max(n - 1, 0), rtol=0, atol=1e-14)
    assert at[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert at[3].tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("period_fs", [20.0, 40.0])
def test_error_falls_with_the_sixth_power(period_fs: float) -> None:
    x, v, a = oscillation(period_fs, grid(4))
    times = torch.tensor([1.0, 2.0, 6.0, 11.5], dtype=torch.float64)
    path, speed = interpolate(times, STEP_FS, x, v, lambda k: a[:, k])
    true_x, true_v, _ = oscillation(period_fs, times)
    share = (2 * math.pi * STEP_FS / period_fs) ** 6 / 46080
    assert (path - true_x).abs().max().item() < share
    assert (speed - true_v).abs().max().item() < 2 * share


def test_accelerations_are_asked_for_only_where_needed() -> None:
    x, v, a = oscillation(20.0, grid(5))
    asked = []

    def acceleration(frame: int) -> Tensor:
        asked.append(frame)
        return a[:, frame]

    interpolate(torch.tensor([4.0, 9.0, 16.0]).double(), STEP_FS, x, v, acceleration)
    assert asked == [2, 3]


def test_steps_cover_the_last_time() -> None:
    for times, steps in (([0.0], 1), ([4.0], 1), ([0.1 * 40 + 1e-12], 1), ([4.1, 0.5], 2)):
        assert steps_to_cover(torch.tensor(times, dtype=torch.float64), STEP_FS) == steps
    for wrong in ([], [-0.5], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match=r"list of times|frame is asked for"):
            steps_to_cover(torch.tensor(wrong, dtype=torch.float64), STEP_FS)
