"""Our EGNO against published numbers, and against a plain restatement of the published model.

The restatement makes parity files of shapes that the published files do not have.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from egno_md.cli.parity import run
from egno_md.models.egno import EGNO
from egno_md.testing.parity import NORM_FLOOR, Comparison, compare, norm_errors, relative_error
from egno_md.testing.parity_file import read_parity_file
from tests.testing.plain_restatement import plain_egno

BASE = {
    "n_layers": 3,
    "in_node_nf": 2,
    "in_edge_nf": 3,
    "hidden_nf": 24,
    "with_v": True,
    "flat": False,
    "norm": False,
    "use_time_conv": True,
    "num_modes": 2,
    "num_timesteps": 5,
    "time_emb_dim": 32,
}


def make_arrays(seed: int = 0, spread: float = 1.0, **changes: object) -> dict[str, np.ndarray]:
    """The content of a parity file, made by the plain restatement."""
    a = BASE | changes
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EGNO(**a)
    w = {k: t.detach().clone().requires_grad_() for k, t in model.state_dict().items()}
    graphs, n = 3, 6
    nodes = graphs * n
    first, second = torch.nonzero(torch.rand((n, n), generator=generator) < 0.6).unbind(1)
    keep = (first != second) & (first != 0)  # node 0 receives nothing: its degree is clamped
    offsets = torch.arange(graphs).repeat_interleave(int(keep.sum())) * n
    row, col = (t[keep].repeat(graphs) + offsets for t in (first, second))

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = spread * draw(nodes, 3) + 5.0
    given = {
        "x": x,
        "v": draw(nodes, 3),
        "h": draw(nodes, a["in_node_nf"]),
        "row": row,
        "col": col,
        "edge_fea": draw(len(row), a["in_edge_nf"]),
        "loc_mean": x.view(graphs, n, 3).mean(1).repeat_interleave(n, 0),
    }
    out = dict(zip("xvh", plain_egno(w, given, a), strict=True))
    # Far from the output, else the loss is made of rounding.
    given["target"] = out["x"].detach() + spread * draw(*out["x"].shape)
    out["loss"] = F.mse_loss(out["x"], given["target"])
    out["loss"].backward()
    zero = torch.zeros(())
    norms = {k: zero if t.grad is None else t.grad.norm() for k, t in w.items()}
    groups = {"sd": w, "in": given, "out": out, "gradnorm": norms}
    arrays = {
        f"{g}/{k}": t.detach().numpy() for g, group in groups.items() for k, t in group.items()
    }
    return arrays | {"meta": np.array(json.dumps(a))}


def save(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = folder / "case.npz"
    np.savez(path, **arrays)
    return path


SHAPES = {
    "base": {},
    "no temporal convolution": {"use_time_conv": False},
    "norm": {"norm": True, "num_timesteps": 8, "num_modes": 4},
    "nyquist kept": {"num_timesteps": 8, "num_modes": 5},
    "all modes of an odd number": {"num_timesteps": 7, "num_modes": 4},
    "one mode": {"num_timesteps": 3, "num_modes": 1},
    "one time": {"num_timesteps": 1, "num_modes": 1},
    "two times": {"num_timesteps": 2, "num_modes": 2},
    "many times": {"num_timesteps": 40, "num_modes": 6, "n_layers": 2},
    "flat": {"flat": True, "hidden_nf": 12},
    "without v": {"with_v": False},
    "one layer": {"n_layers": 1, "hidden_nf": 48},
    "deep": {"n_layers": 7, "hidden_nf": 16},
    "odd embedding": {"time_emb_dim": 9},
    "no features": {"in_node_nf": 0, "in_edge_nf": 0},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_agrees_with_the_plain_restatement(name: str, tmp_path: Path) -> None:
    result = compare(save(tmp_path, make_arrays(len(name), **SHAPES[name])))
    assert set(result.outputs) == {"x", "v", "h", "loss"}
    assert len(result.gradient_norms) == len(EGNO(**(BASE | SHAPES[name])).state_dict())
    assert result.within(), (result.outputs, result.worst_gradient)


def test_far_nodes_whose_steps_are_clamped_agree(tmp_path: Path) -> None:
    arrays = make_arrays(1, spread=300.0, n_layers=1)
    assert compare(save(tmp_path, arrays)).within()
    given = {k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("in/")}
    weights = {k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("sd/")}
    unclamped = {k: 1e-3 * t if ".coord_net.mlp.2" in k else t for k, t in weights.items()}
    a = BASE | {"n_layers": 1}
    # The clamp was at work: a thousandth of the pull is more than a thousandth of the step.
    still = {k: 0 * t if ".coord_net.mlp.2" in k else t for k, t in weights.items()}
    start = plain_egno(still, given, a)[0]
    full = (plain_egno(weights, given, a)[0] - start).abs().max()
    small = (plain_egno(unclamped, given, a)[0] - start).abs().max()
    assert float(small) > 1.5e-3 * float(full)


@pytest.fixture
def published() -> list[Path]:
    folder = os.environ.get("EGNO_MD_PARITY")
    if folder is None and "EGNO_MD_DATA" in os.environ:
        folder = str(Path(os.environ["EGNO_MD_DATA"]).parent / "parity")
    files = sorted(Path(folder).glob("*.npz")) if folder else []
    if not files:
        pytest.skip("set EGNO_MD_PARITY to the folder with the published numbers (*.npz)")
    return files


def test_published_numbers_are_reproduced(
    published: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([str(file) for file in published])
    printed = capsys.readouterr()
    assert code == 0, printed.out + printed.err
    assert printed.out.count("worst:") == len(published)


def test_missing_words_of_meta_are_read_off_the_arrays(tmp_path: Path) -> None:
    arrays = make_arrays(3, num_timesteps=6, num_modes=3)
    path = save(tmp_path, arrays | {"meta": np.array("{}")})
    assert compare(path).within()
    assert read_parity_file(path).architecture["num_modes"] == 3


def test_files_without_gradients_or_velocities_are_compared_as_far_as_they_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = make_arrays(3)
    kept = {k: v for k, v in arrays.items() if not k.startswith("gradnorm") and k != "out/v"}
    assert run([str(save(tmp_path, kept))]) == 0
    assert capsys.readouterr().out.count("not in the file") == 2


def change(arrays: dict[str, np.ndarray], name: str, factor: float) -> dict[str, np.ndarray]:
    return arrays | {name: (arrays[name] * factor).astype(np.float32)}


@pytest.mark.parametrize(
    ("name", "factor", "row"),
    [
        ("out/x", 1 + 3e-5, "x"),
        ("out/v", 1 + 3e-5, "v"),
        ("out/h", 1 - 3e-5, "h"),
        ("out/loss", 1 + 3e-5, "loss"),
        ("gradnorm/layers.1.coord_net.mlp.2.bias", 1 + 3e-4, "gradient norms"),
        ("gradnorm/embedding.bias", 0.0, "gradient norms"),
        ("sd/time_conv_x_modules.1.t_conv.weights1", 1.01, "x"),
    ],
)
def test_a_wrong_number_is_seen(
    name: str, factor: float, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([str(save(tmp_path, change(make_arrays(), name, factor)))])
    above = [line for line in capsys.readouterr().out.splitlines() if "ABOVE" in line]
    assert code == 1
    assert any(line.split("  ")[1] == row for line in above)
    if name.startswith("gradnorm"):
        assert name.removeprefix("gradnorm/") in above[0]


def test_tolerances_can_be_set(tmp_path: Path) -> None:
    path = str(save(tmp_path, change(make_arrays(), "out/x", 1 + 3e-5)))
    assert run([path]) == 1
    assert run([path, "--tolerance", "1e-4"]) == 0
    with pytest.raises(SystemExit) as stop:
        run([path, "--tolerance", "-1"])
    assert stop.value.code == 2


def test_relative_errors_at_the_edges() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert relative_error(zero, zero) == 0.0
    assert relative_error(one, zero) == math.inf
    assert math.isnan(relative_error(one * math.nan, one))
    norms = norm_errors({"a": 1.0, "b": 1e-9, "c": 0.0}, {"a": 2.0, "b": 0.0, "c": 0.0})
    assert norms["a"] == 0.5
    assert norms["b"] == pytest.approx(1e-9 / (NORM_FLOOR * 2.0))
    assert norms["c"] == 0.0
    nan = Comparison(Path("f"), "", {"x": 0.0}, {"a": 0.1, "b": math.nan, "c": 0.2})
    assert nan.worst_gradient is not None
    assert nan.worst_gradient[0] == "b"
    assert not nan.within(1.0, 1.0)


def broken(arrays: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    nodes = len(arrays["in/x"])
    nan = arrays["in/x"].copy()
    nan[2, 1] = np.nan
    row = arrays["in/row"].copy()
    row[7] = nodes
    changes: dict[str, dict[str, object]] = {
        "nan": {"in/x": nan},
        "edge": {"in/row": row},
        "objects": {"in/x": np.array([object()], dtype=object)},
        "text": {"in/x": np.array(["a"] * 9)},
        "json": {"meta": np.array("{n_layers")},
        "list": {"meta": np.array("[1]")},
        "meta": {"meta": np.array(json.dumps(BASE | {"num_modes": 3}))},
        "norm": {"meta": np.array(json.dumps(BASE | {"norm": "yes"}))},
        "short": {"in/v": arrays["in/v"][:-1]},
        "target": {"in/target": arrays["in/target"][:-1]},
        "out": {"out/x": arrays["out/x"][:-1]},
        "none": {"out/x": arrays["out/x"][:0]},
        "weight": {"sd/layers.1.node_net.mlp.2.bias": np.zeros(5, np.float32)},
        "layer": {"sd/layers.99999999.node_net.mlp.2.bias": np.zeros(24, np.float32)},
        "extra": {"sd/something": np.zeros(3, np.float32)},
        "modes": {"sd/time_conv_modules.0.t_conv.weights1": np.zeros((24, 24, 9, 2), np.float32)},
        "norm of nothing": {"gradnorm/nothing": np.float32(1)},
        "complex": {"in/x": np.zeros((nodes, 3), complex)},
        "integer": {"in/x": np.zeros((nodes, 3), int)},
        "large": {"in/edge_fea": np.zeros((10**7, 0)), "in/row": np.zeros(10**7, np.int8)}
        | {"in/col": np.zeros(10**7, np.int8)},
    }
    return arrays | changes[how]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", "in/x.*nan at (2, 1)"),
        ("edge", "in/row names node 18 in edge 7 of 18"),
        ("objects", "in/x.*object"),
        ("text", "in/x.*wrong type"),
        ("json", "meta is not JSON"),
        ("list", "meta must be a JSON object"),
        ("meta", "num_modes = 3, the arrays say 2"),
        ("norm", "norm = 'yes'"),
        ("short", "in/v must have shape (18, 3)"),
        ("target", "in/target must have shape (90, 3)"),
        ("out", "out/x.*no whole number of 18 nodes"),
        ("none", "num_timesteps = 5, the arrays say 0"),
        ("weight", "sd/layers.1.node_net.mlp.2.bias must have shape (24,)"),
        ("layer", "n_layers = 3, the arrays say 100000000"),
        ("extra", "unknown ['something']"),
        ("modes", "num_modes = 2, the arrays say 9"),
        ("norm of nothing", "gradnorm/nothing belongs to no weight"),
        ("complex", "complex128"),
        ("integer", "in/x.*wrong type"),
        ("large", "in_edge_nf = 3, the arrays say 0"),
    ],
)
def test_a_wrong_file_gives_one_line_and_code_2(
    how: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path, broken(make_arrays(), how))
    assert run([str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"egno-md: error: {path}: ")
    head, _, tail = words.partition(".*")
    assert head in printed.err
    assert tail in printed.err


def test_more_memory_than_allowed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, make_arrays())
    monkeypatch.setattr("egno_md.testing.parity_file.LARGEST_MEMORY_BYTES", 10**5)
    assert run([str(path)]) == 2
    assert "GiB of memory" in capsys.readouterr().err
    monkeypatch.setattr("egno_md.testing.parity_file.LARGEST_BYTES", 10**4)
    assert run([str(path)]) == 2
    assert "unpacks to" in capsys.readouterr().err


def test_damaged_files_are_refused_and_the_others_still_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = save(tmp_path, make_arrays())
    whole = good.read_bytes()
    cut, text, empty = tmp_path / "cut.npz", tmp_path / "text.npz", tmp_path / "empty.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("no archive")
    empty.write_bytes(b"")
    flipped = tmp_path / "flipped.npz"
    where = whole.index(make_arrays()["in/v"].tobytes())
    flipped.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    missing = tmp_path / "missing.npz"
    bad = [cut, text, empty, flipped, missing, tmp_path]
    assert run([*map(str, bad), str(good)]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == len(bad)
    assert all(f"error: {path}: " in printed.err for path in bad)
    assert "gradient norms" in printed.out


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    promise = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
    np.lib.format.write_array_header_1_0(header, promise)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/x.npy", header.getvalue() + bytes(100))
    assert run([str(path)]) == 2
    assert "promises 12000000000000 bytes and has 100" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom egno_md.cli.parity import run\n"
        "try: run(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "max|ours - published|" in done.stdout
