"""N-body data: the file's, its checks, and the simulated one against it."""

import os
from functools import partial

import numpy as np
import pytest
import torch

from egno_md.data.nbody import FILE_NAME, FRAMES, find_nbody_file, read_nbody, simulate_nbody
from egno_md.data.nbody_simulation import simulate_charges


@pytest.fixture(scope="module")
def published():
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    return read_nbody(find_nbody_file(folder))


@pytest.fixture
def fields():
    rng = np.random.default_rng(1)
    made = {"frames": np.array(FRAMES)}
    for word in ("train", "valid", "test"):
        for part in ("positions", "velocities"):
            made[f"{word}_{part}"] = rng.normal(size=(2, 11, 5, 3)).astype(np.float32)
        made[f"{word}_charges"] = np.ones((2, 5), dtype=np.int8)
    return made


def test_published_sizes(published):
    assert [len(published[s].charges) for s in published] == [3000, 2000, 2000]


def test_our_integrator_goes_where_the_file_goes(published):
    part = published["test"]
    few = slice(0, 60)
    x, v = simulate_charges(
        part.positions[few, 0], part.velocities[few, 0], part.charges[few], len(FRAMES)
    )
    # The file has 7 digits, which close encounters amplify: not all follow to the end.
    for found, expected in ((x, part.positions[few]), (v, part.velocities[few])):
        off = (found - expected).abs().amax((1, 2, 3))
        assert off.median() < 2e-6
        assert (off < 1e-3).float().mean() > 0.85


def test_simulated_has_the_published_distribution(published):
    made = simulate_nbody(7, sizes={"training": 300, "validation": 1, "test": 1})["training"]
    for name in ("positions", "velocities"):
        for frame in (0, 10):
            mine, theirs = (
                getattr(t, name)[:, frame].abs().flatten() for t in (made, published["training"])
            )
            levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
            assert torch.allclose(mine.quantile(levels), theirs.quantile(levels), rtol=0.1)
    assert abs(float(made.charges.mean() - published["training"].charges.mean())) < 0.1


def test_simulated_again_and_kept(tmp_path, monkeypatch):
    quick = partial(simulate_charges, steps_per_frame=2)
    monkeypatch.setattr("egno_md.data.nbody.simulate_charges", quick)
    sizes = {"training": 3, "validation": 2, "test": 1}
    first = simulate_nbody(5, tmp_path, sizes)
    assert len(list(tmp_path.iterdir())) == 1
    for again in (simulate_nbody(5, tmp_path, sizes), simulate_nbody(5, None, sizes)):
        for split, count in sizes.items():
            assert again[split].positions.shape == (count, 11, 5, 3)
            assert torch.equal(first[split].positions, again[split].positions)
    other = simulate_nbody(6, tmp_path, sizes)
    assert not torch.equal(first["test"].positions, other["test"].positions)


@pytest.mark.parametrize("place", ["", "nbody", FILE_NAME])
def test_found_as_file_or_folder(tmp_path, fields, place):
    path = tmp_path / ("nbody" if place == "nbody" else "") / FILE_NAME
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **fields)
    given = path if place == FILE_NAME else tmp_path
    assert find_nbody_file(given) == path
    assert read_nbody(path)["validation"].positions.shape == (2, 11, 5, 3)


def test_missing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="leave the data out"):
        find_nbody_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("frames", lambda a: a + 1, "needed are"),
        ("train_positions", lambda a: a[:, :10], "positions must be"),
        ("valid_velocities", lambda a: a[:1], "velocities have shape"),
        ("test_charges", lambda a: a[:, :3], "charges must have shape"),
        ("test_charges", lambda a: 2 * a, "1 or -1"),
        ("train_positions", lambda a: a * np.nan, "not finite"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path, fields, name, change, message):
    np.savez(tmp_path / "x.npz", **(fields | {name: change(fields[name])}))
    with pytest.raises(ValueError, match=message):
        read_nbody(tmp_path / "x.npz")


def test_other_files_are_refused(tmp_path, fields):
    del fields["test_charges"]
    np.savez(tmp_path / "x.npz", **fields)
    with pytest.raises(ValueError, match="not an N-body file"):
        read_nbody(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_text("no zip")
    with pytest.raises(ValueError, match="not an N-body file"):
        read_nbody(tmp_path / "y.npz")
