"""What docs/library.md shows runs."""

from egno_md.trajectories.store_reader import TrajectoryReader
from tests.doors.pages import blocks, page, run_blocks


def test_the_block_runs(tmp_path, monkeypatch, capsys):
    run_blocks(blocks(page("library")), tmp_path, monkeypatch)
    reader = TrajectoryReader(tmp_path / "out.zarr")
    assert reader.header.n_replicas == 8
    assert reader.n_frames == 1 + 1000 // 3
    assert "NETWORK" in capsys.readouterr().out
