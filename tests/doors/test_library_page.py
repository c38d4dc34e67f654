"""What docs/library.md shows runs."""

import re
from pathlib import Path

from egno_md.trajectories.store_reader import TrajectoryReader

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text()


def test_the_block_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "egno_md").symlink_to(ROOT / "egno_md")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "library.md", "exec"), {})
    reader = TrajectoryReader(tmp_path / "out.zarr")
    assert reader.header.n_replicas == 8
    assert reader.n_frames == 1 + 1000 // 3
    assert "NETWORK" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
