"""Settings out of range are refused by name."""

from __future__ import annotations

import pytest

from egno_md.models.setting_ranges import check_positive, check_whole_numbers


@pytest.mark.parametrize("value", [0, 11, 2.0, True, "3", None])
def test_what_is_not_a_whole_number_of_the_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^channels must be a whole number from 1 to 10, got "):
        check_whole_numbers({"channels": value}, {"channels": (1, 10)})


def test_both_ends_of_a_range_are_allowed() -> None:
    ranges = {"channels": (1, 10), "n_layers": (0, 3)}
    check_whole_numbers({"channels": 1, "n_layers": 3, "other": -5}, ranges)
    check_whole_numbers({"channels": 10, "n_layers": 0}, ranges)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_not_positive_and_finite_is_refused(value: float) -> None:
    check_positive({"cutoff_A": 1e-3, "other": value}, ["cutoff_A"])
    with pytest.raises(ValueError, match=r"^cutoff_A must be positive and finite, got "):
        check_positive({"cutoff_A": value}, ["cutoff_A"])
