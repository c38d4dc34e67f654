"""The straightforward formulation gives the numbers of ours."""

import pytest
import torch

from egno_md.benchmarks.plain_egno import PlainEGNO, segment_sum
from egno_md.benchmarks.training_step import StepSize, random_inputs
from egno_md.models.egno import EGNO


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_time_conv": False},
        {"num_modes": 3},
        {"num_timesteps": 4, "num_modes": 3},
        {"norm": True, "flat": True},
        {"with_v": False},
    ],
    ids=str,
)
def test_same_outputs_and_gradients(options):
    generator = torch.Generator().manual_seed(2)
    times = options.get("num_timesteps", 5)
    size = StepSize(3, 5, 13, hidden=16, n_layers=3, n_times=times)
    inputs, targets = random_inputs(size, generator)
    torch.manual_seed(1)
    ours = EGNO(3, 2, 2, 16, **({"num_timesteps": times} | options))
    for parameter in ours.parameters():
        parameter.data.mul_(0.5)
    found = []
    for model in (ours, PlainEGNO(ours)):
        ours.zero_grad()
        out = model(*inputs)
        (out[0] - targets).square().mean().backward()
        grads = [p.grad.clone() for p in ours.parameters() if p.grad is not None]
        found.append([*out, *grads])
    for mine, plain in zip(*found, strict=True):
        assert mine.shape == plain.shape
        assert (mine - plain).abs().max() <= 1e-5 * plain.abs().max().clamp(min=1e-3)


def test_segment_sum():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    found = segment_sum(values, torch.tensor([2, 0, 2]), 3)
    assert found.tolist() == [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
