"""Warnings of a run are said once, in the program's own words, and kept."""

import warnings

import pytest

from egno_md.trajectories.run_warnings import RunWarnings


def test_warnings_that_differ_in_numbers_only_are_said_once(capsys):
    warned = RunWarnings()
    warned.say("a period of 9.1 fs")
    warned.say("a period of 9.3 fs")
    warned.say("something else")
    assert warned.lines == ("a period of 9.1 fs", "something else")
    said = capsys.readouterr().err.splitlines()
    assert said == [f"egno-md: warning: {line}" for line in warned.lines]


def test_those_of_earlier_sittings_are_kept_without_a_word(capsys):
    warned = RunWarnings()
    assert warned.keep(["a period of 9.1 fs"])
    warned.say("a period of 9.1 fs")
    assert warned.lines == ("a period of 9.1 fs",)
    assert capsys.readouterr().err == ""


def test_the_library_is_listened_to_and_others_are_left_alone(capsys):
    warned, before = RunWarnings(), warnings.showwarning
    with warned.listening():
        for _ in "ab":
            warnings.warn_explicit("steps\n resonate", RuntimeWarning, "a.py", 1, "egno_md.a")
        with pytest.raises(UserWarning, match="not ours"):
            warnings.warn("not ours", UserWarning, stacklevel=1)
    assert warnings.showwarning is before
    assert len(warned.lines) == 1
    said = capsys.readouterr().err
    assert said.startswith("egno-md: warning: steps resonate")
    assert said.count("\n") == 1
