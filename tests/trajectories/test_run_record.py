import pytest

from egno_md.trajectories.run_record import in_percent


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (1.0, "100%"), (0.999987, "99.99%"), (1e-6, "0.01%"), (0.25, "25.00%")],
)
def test_only_all_is_everything_and_only_nothing_is_nothing(share: float, text: str) -> None:
    assert in_percent(share) == text
