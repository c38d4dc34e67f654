"""The training loop: resumed bit for bit, best kept, divergence stopped, log readable."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal

import pytest
import torch
from torch import nn

from egno_md.training.averaging import WeightAverage
from egno_md.training.log import cut_log, read_log, write_line
from egno_md.training.loop import BEST, CHECKPOINT, LOG, TrainingDiverged, fit, load_best
from egno_md.training.settings import FitSettings, learning_rate_at

torch.set_num_threads(1)


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def sample_batch(step, generator):
    x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    return x, x.square().sum(-1, keepdim=True)


def loss(model, batch):
    error = (model(batch[0]) - batch[1]).square().mean()
    return error, {"rms": error.detach().sqrt()}


def validate(model):
    x, y = sample_batch(0, torch.Generator().manual_seed(99))
    with torch.no_grad():
        return {"score": float((model(x) - y).square().mean())}


def settings(**changes):
    numbers = {
        "steps": 40,
        "learning_rate": 1e-2,
        "warmup_steps": 5,
        "validate_every": 10,
        "checkpoint_every": 10,
        "log_every": 5,
        "ema_decay": 0.9,
        "weight_decay": 0.01,
    }
    return FitSettings(**(numbers | changes))


class Killed(Exception):
    """Stands for a process that is killed."""


def killed_at(step_killed):
    def sample(step, generator):
        if step == step_killed:
            raise Killed
        return sample_batch(step, generator)

    return sample


@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
@pytest.mark.parametrize("step_killed", [3, 13, 29, 39])
def test_killed_and_resumed_is_bitwise_the_uninterrupted(tmp_path, step_killed, optimizer):
    whole, broken = make_model(), make_model()
    one = fit(
        whole, sample_batch, loss, validate, settings(optimizer=optimizer), tmp_path / "whole"
    )
    with pytest.raises(Killed):
        fit(
            broken,
            killed_at(step_killed),
            loss,
            validate,
            settings(optimizer=optimizer),
            tmp_path / "broken",
        )
    again = make_model(seed=5)
    if step_killed < 10:
        again = make_model()  # nothing was saved yet: the fit starts anew
    two = fit(
        again,
        sample_batch,
        loss,
        validate,
        settings(optimizer=optimizer),
        tmp_path / "broken",
        resume=True,
    )
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert (one.best_score, one.best_step, one.steps) == (two.best_score, two.best_step, two.steps)
    rows = [
        [(r["step"], r["kind"], r.get("loss"), r.get("score")) for r in read_log(folder / LOG)]
        for folder in (tmp_path / "whole", tmp_path / "broken")
    ]
    assert rows[0] == rows[1]
    assert (tmp_path / "whole" / BEST).exists()


def test_interrupt_leaves_a_checkpoint_of_that_step(tmp_path):
    def interrupted(step, generator):
        if step == 16:
            os.kill(os.getpid(), signal.SIGINT)
        return sample_batch(step, generator)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), interrupted, loss, validate, settings(), tmp_path / "a")
    assert signal.getsignal(signal.SIGINT) is before
    whole, resumed = make_model(), make_model(seed=3)
    fit(whole, sample_batch, loss, validate, settings(), tmp_path / "b")
    starts = []

    def watched(step, generator):
        starts.append(step)
        return sample_batch(step, generator)

    fit(resumed, watched, loss, validate, settings(), tmp_path / "a", resume=True)
    assert starts[0] == 17
    assert torch.equal(whole[0].weight, resumed[0].weight)


def test_best_on_validation_is_kept_not_the_last(tmp_path):
    scores = iter([3.0, 1.0, math.nan, 2.0])
    seen = []

    def scripted(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(scores)}

    model = make_model()
    result = fit(model, sample_batch, loss, scripted, settings(), tmp_path)
    assert (result.best_step, result.best_score) == (20, 1.0)
    assert torch.equal(load_best(tmp_path)["0.weight"], seen[1]["0.weight"])
    assert torch.equal(model[0].weight, seen[1]["0.weight"])
    assert not torch.equal(seen[1]["0.weight"], seen[3]["0.weight"])


def test_nan_loss_stops_and_keeps_the_best(tmp_path):
    def bad(step, generator):
        x, y = sample_batch(step, generator)
        return (x * math.nan if step == 25 else x), y

    with pytest.raises(TrainingDiverged, match=r"nan at step 25; the best weights so far \(step"):
        fit(make_model(), bad, loss, validate, settings(), tmp_path)
    assert all(bool(torch.isfinite(w).all()) for w in load_best(tmp_path).values())


def test_nan_gradient_stops(tmp_path):
    def hidden(model, batch):
        # Finite value, infinite slope.
        return (model(batch[0]) * 0.0).abs().sqrt().sum(), {}

    with pytest.raises(TrainingDiverged, match="gradient"):
        fit(make_model(), sample_batch, hidden, validate, settings(), tmp_path)


def test_budget_stops_early_with_a_checkpoint(tmp_path):
    budget = settings(cpu_minutes=1e-9)
    result = fit(make_model(), sample_batch, loss, validate, budget, tmp_path)
    assert (result.stopped_by, result.steps) == ("cpu_minutes", 1)
    again = fit(make_model(), sample_batch, loss, validate, budget, tmp_path, resume=True)
    assert (again.stopped_by, again.steps) == ("cpu_minutes", 1)  # used up is used up
    whole, resumed = make_model(), make_model(seed=2)
    fit(resumed, sample_batch, loss, validate, settings(), tmp_path, resume=True)
    fit(whole, sample_batch, loss, validate, settings(), tmp_path / "whole")
    assert torch.equal(whole[0].weight, resumed[0].weight)


def test_other_settings_or_model_cannot_resume(tmp_path):
    fit(make_model(), sample_batch, loss, validate, settings(), tmp_path)
    with pytest.raises(ValueError, match="already holds a training"):
        fit(make_model(), sample_batch, loss, validate, settings(), tmp_path)
    other = settings(learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.01 and is now 0\.5"):
        fit(make_model(), sample_batch, loss, validate, other, tmp_path, resume=True)
    wide = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 1)).double()
    with pytest.raises(ValueError, match="belongs to another model"):
        fit(wide, sample_batch, loss, validate, settings(), tmp_path, resume=True)


def test_damaged_checkpoint_is_named(tmp_path):
    fit(make_model(), sample_batch, loss, validate, settings(), tmp_path)
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged"):
        fit(make_model(), sample_batch, loss, validate, settings(), tmp_path, resume=True)


def test_average_follows_its_recurrence():
    model = make_model()
    average = WeightAverage(model, 0.7)
    expected = model[0].weight.detach().clone()
    for k in range(12):
        with torch.no_grad():
            model[0].weight += 0.1 * (k + 1)
        average.update(model)
        decay = min(0.7, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.model[0].weight, expected, rtol=1e-13, atol=1e-13)
    assert not average.model[0].weight.requires_grad


def test_learning_rate_rises_and_falls():
    numbers = settings(steps=105, warmup_steps=4, learning_rate=1.0, final_fraction=0.1)
    rates = [learning_rate_at(numbers, k) for k in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    flat = settings(schedule="constant", warmup_steps=0)
    assert {learning_rate_at(flat, k) for k in range(40)} == {0.01}


def test_log_is_readable_after_a_kill_in_mid_line(tmp_path):
    path = tmp_path / LOG
    for step in (1, 2, 3):
        write_line(path, {"step": step, "loss": 0.5 if step < 3 else math.inf})
    with path.open("a") as handle:
        handle.write('{"step": 4, "lo')
    assert [r["step"] for r in read_log(path)] == [1, 2, 3]
    assert read_log(path)[2]["loss"] is None
    cut_log(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    path.write_text('{"step"\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        read_log(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("learning_rate", -1.0), ("ema_decay", 1.5), ("schedule", "step")],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        settings(**{name: value})
