import math

import pytest
import torch
from torch import Tensor

from egno_md.models.frame_interpolation import (
    REACH,
    hermite_weights,
    path_at_times,
    steps_to_cover,
)

STEP_FS = 4.0


def swing(period_fs: float, x: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Exact positions and velocities of oscillators after some times, `(n, n_times, ...)`."""
    w = 2 * math.pi / period_fs
    c, s = (f(w * t)[None, :, None, None] for f in (torch.cos, torch.sin))
    return c * x[:, None] + s / w * v[:, None], c * v[:, None] - w * s * x[:, None]


def start() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn((2, 3, 3), generator=draw, dtype=torch.float64)
    return x, 0.3 * torch.randn((2, 3, 3), generator=draw, dtype=torch.float64)


def test_weights_reproduce_polynomials_of_eleventh_degree() -> None:
    s = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    nodes = torch.arange(-2.0, 4.0, dtype=torch.float64)
    at, slope = hermite_weights(s)
    for n in range(12):
        known = torch.cat([nodes**n, n * nodes ** max(n - 1, 0)])
        torch.testing.assert_close(at @ known, s**n, rtol=0, atol=1e-10)
        torch.testing.assert_close(slope @ known, n * s ** max(n - 1, 0), rtol=0, atol=1e-10)
    for row, node in ((0, 2), (3, 3)):
        assert at[row].tolist() == [float(k == node) for k in range(12)]
        there = [float(k == node + 6) for k in range(12)]
        assert slope[row].tolist() == pytest.approx(there, abs=1e-15)


@pytest.mark.parametrize(("period_fs", "error"), [(12.0, 2e-4), (40.0, 1e-9)])
def test_a_fast_vibration_is_followed_between_frames(period_fs: float, error: float) -> None:
    x, v = start()
    times = torch.tensor([0.0, 0.3, 2.0, 4.0, 6.0, 11.5], dtype=torch.float64)
    asked = []

    def advance(x: Tensor, v: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        asked.append(n_steps)
        return swing(period_fs, x, v, STEP_FS * torch.arange(1.0, n_steps + 1).double())

    path, speed = path_at_times(times, STEP_FS, x, v, advance)
    true_x, true_v = swing(period_fs, x, v, times)
    w = 2 * math.pi / period_fs
    size = (x**2 + (v / w) ** 2).sqrt().max().item()
    assert (path - true_x).abs().max().item() < error * size
    assert (speed - true_v).abs().max().item() < 3 * error * w * size
    assert torch.equal(path[:, 0], x)
    assert torch.equal(speed[:, 0], v)
    assert asked == [3 + REACH, REACH]
    path_at_times(torch.tensor([4.0, 8.0, 0.0]).double(), STEP_FS, x, v, advance)
    assert asked[2:] == [2]  # frames of the map need nothing else


def test_a_path_that_is_lost_on_the_way_is_right_before() -> None:
    x, v = start()

    def advance(x: Tensor, v: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        path, speed = swing(40.0, x, v, STEP_FS * torch.arange(1.0, n_steps + 1).double())
        path[0, 3:] = math.nan
        return path, speed

    path, _ = path_at_times(torch.tensor([0.5, 4.0, 12.0, 16.0]).double(), STEP_FS, x, v, advance)
    lost = path.isnan().flatten(2).any(-1)
    assert lost.tolist() == [[False, False, False, True], [False] * 4]


def test_steps_cover_the_last_time() -> None:
    for times, steps in (([0.0], 1), ([4.0], 1), ([0.1 * 40 + 1e-12], 1), ([4.1, 0.5], 2)):
        assert steps_to_cover(torch.tensor(times, dtype=torch.float64), STEP_FS) == steps
    for wrong in ([], [-0.5], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match=r"list of times|frame is asked for"):
            steps_to_cover(torch.tensor(wrong, dtype=torch.float64), STEP_FS)
