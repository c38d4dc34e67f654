"""When a guard asks for the energy of every frame."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from egno_md.config import RunConfig
from egno_md.propagators.energy_frames import REMEMBERED, EnergyFrames, Watchfulness

GOOD, BAD = torch.ones(16, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)


def judged(*verdicts: torch.Tensor) -> Watchfulness:
    watching = Watchfulness("auto")
    for accepted in verdicts:
        watching.note(accepted)
    return watching


def test_a_network_is_trusted_after_a_while_and_watched_again_after_rejections() -> None:
    assert Watchfulness("auto").every_frame
    assert judged(*[GOOD] * 3).every_frame
    assert not judged(*[GOOD] * 4).every_frame
    assert not judged(*[GOOD] * 4, BAD[:3]).every_frame
    assert judged(*[GOOD] * 4, BAD).every_frame
    assert judged(*[GOOD] * 4, BAD, *[GOOD] * 3).every_frame
    assert not judged(*[GOOD] * 4, BAD, *[GOOD] * 4).every_frame


def test_all_and_last_learn_nothing() -> None:
    for frames, every in (("all", True), ("last", False)):
        watching = Watchfulness(frames)
        for accepted in (BAD, *[GOOD] * 5, *[BAD] * 20):
            watching.note(accepted)
            assert watching.every_frame is every
        watching.restore({})


def test_what_it_learned_survives_a_restart() -> None:
    watching, again = judged(*[GOOD] * 4, BAD), Watchfulness("auto")
    again.restore(watching.restart_state())
    assert again.every_frame
    for one in (watching, again):
        one.note(torch.ones(REMEMBERED - 4, dtype=torch.bool))
        assert one.every_frame
        one.note(GOOD[:1])
        assert not one.every_frame


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'first'; allowed are 'last', 'all', 'auto'"):
        Watchfulness("first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="verdicts of an energy judge are missing"):
        Watchfulness("auto").restore({})
    with pytest.raises(ValueError, match=r"of shape \(2, 2\)"):
        Watchfulness("auto").restore({"verdicts": torch.ones((2, 2), dtype=torch.bool)})


def test_a_run_may_ask_for_the_same() -> None:
    asked = RunConfig.model_fields["energy_frames"]
    assert get_args(asked.annotation) == get_args(EnergyFrames)
    assert asked.default == "auto"
