"""Our eSCN against published numbers, and against files made from its plain statement."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egno_md.benchmarks.plain_escn import PlainESCN
from egno_md.cli import main
from egno_md.models.edge_frame import edge_frames
from egno_md.models.escn import ESCN
from egno_md.testing.escn_parity import TOLERANCES, compare_escn, load_published, read_tensors

STEPS = ("edge_block", "so2_source", "so2_target", "message", "layer")


def published() -> tuple[Path, Path]:
    folder = os.environ.get("EGNO_MD_PARITY")
    if not folder:
        pytest.skip("set EGNO_MD_PARITY to the folder with published numbers")
    return tuple(Path(folder, "escn", f"L2M2_{k}_f64.safetensors") for k in ("weights", "io"))


def test_the_published_numbers_come_out_to_1e_12():
    result = compare_escn(*published())
    assert result.dtype == torch.float64
    wanted = {f"layer{k}.{step}" for k in (0, 1) for step in STEPS}
    wanted |= {"wigner", "energy", "forces", "node_energy", "to_grid_mat_lm", "from_grid_mat_ll"}
    assert wanted <= set(result.errors)
    assert max(result.errors.values()) < 1e-12
    assert result.within()
    assert not result.within(1e-17)


def test_float32_weights_give_the_published_numbers_to_3e_6(tmp_path):
    weights, outputs = published()
    single = {k: t.float() for k, t in load_file(weights).items()}
    save_file(single, tmp_path / "weights.safetensors")
    result = compare_escn(tmp_path / "weights.safetensors", outputs)
    assert result.dtype == torch.float32
    assert max(result.errors[k] for k in ("energy", "forces")) < 3e-6
    assert result.errors["forces"] > 1e-9


@pytest.mark.parametrize("seed", [0, 1])
def test_random_frames_scatter_far_more_than_the_tolerance(tmp_path, seed):
    weights, outputs = published()
    given = load_file(outputs)
    angle = torch.rand((), generator=torch.Generator().manual_seed(seed)).double() * 6
    c, s = angle.cos(), angle.sin()
    roll = torch.eye(3).double()
    roll[0, 0], roll[0, 2], roll[2, 0], roll[2, 2] = c, s, -s, c
    given["edge_rot_mat"] = roll @ given["edge_rot_mat"]
    save_file(given, tmp_path / "other.safetensors")
    result = compare_escn(weights, tmp_path / "other.safetensors")
    assert 1e-9 < result.errors["forces"] < 1e-2
    assert not result.within()


def made(folder: Path, degree: int, order: int) -> tuple[Path, Path]:
    """Files of another size: a fresh network, and what its plain statement gives."""
    torch.manual_seed(0)
    net = ESCN(
        max_degree=degree,
        max_order=order,
        n_layers=2,
        channels=4,
        hidden_channels=6,
        edge_channels=5,
        n_gaussians=30,
        n_elements=10,
        cutoff_A=5.0,
    ).double()
    net.requires_grad_(False)
    for name, weight in net.named_parameters():
        # Larger than they start: else forces are made of what little the points leave.
        if "fc" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=2.0 / weight.shape[1] ** 0.5)
    draw = torch.Generator().manual_seed(1)
    pos = 1.5 * torch.randn((5, 3), generator=draw, dtype=torch.float64)
    edges = (~torch.eye(5, dtype=torch.bool)).nonzero().T
    offsets = torch.zeros((20, 3), dtype=torch.int64)
    offsets[3, 0] = 1
    cell = 6.0 * torch.eye(3, dtype=torch.float64)
    shifts = offsets.double() @ cell
    arrows = pos[edges[0]] - pos[edges[1]] + shifts
    frames = edge_frames(arrows / arrows.norm(dim=1, keepdim=True))
    numbers = torch.tensor([1, 6, 8, 1, 7])
    energy, forces = PlainESCN(net)(pos, numbers, edges, shifts, torch.zeros(5).long(), 1, frames)
    given = {
        "pos": pos,
        "numbers": numbers,
        "cell": cell,
        "cell_offsets": offsets,
        "edge_index": edges.contiguous(),
        "edge_rot_mat": frames,
        "energy": energy,
        "forces": forces,
    }
    paths = folder / "weights.safetensors", folder / "outputs.safetensors"
    save_file({f"module.{k}": t.contiguous() for k, t in net.state_dict().items()}, paths[0])
    save_file(given, paths[1])
    return paths


@pytest.mark.parametrize(("degree", "order"), [(4, 2), (6, 3), (1, 0), (3, 3)])
def test_files_of_other_sizes(tmp_path, degree, order):
    result = compare_escn(*made(tmp_path, degree, order))
    assert result.errors.keys() == {"energy", "forces"}
    assert result.within()
    assert f"L {degree}, M {order}, 2 layers" in result.model


def test_the_command_prints_and_judges(tmp_path, capsys):
    weights, outputs = (str(p) for p in made(tmp_path, 2, 1))
    assert main(["parity", weights, outputs]) == 0
    out = capsys.readouterr().out
    assert "float64" in out
    assert out.count(" ok") == 2
    given = load_file(outputs)
    given["forces"][0, 0] += 1e-8 * float(given["forces"].abs().max())
    save_file(given, outputs)
    assert main(["parity", weights, outputs]) == 1
    assert "ABOVE" in capsys.readouterr().out
    assert main(["parity", weights, outputs, "--tolerance", "1e-6"]) == 0


def test_one_safetensors_file_is_refused(tmp_path, capsys):
    weights, _ = (str(p) for p in made(tmp_path, 2, 1))
    assert main(["parity", weights]) == 2
    assert "the weights and then the outputs" in capsys.readouterr().err


SPOILED = {
    "lacks": (lambda g: g.pop("edge_rot_mat"), "lacks edge_rot_mat"),
    "shape": (
        lambda g: g.update(pos=g["pos"][:, :2].contiguous()),
        r"pos must have shape \(5, 3\)",
    ),
    "node": (lambda g: g["edge_index"].__setitem__((0, 0), 5), "whole numbers from 0 to 4"),
    "element": (lambda g: g["numbers"].__setitem__(0, 10), "whole numbers from 0 to 9"),
    "nan": (lambda g: g["pos"].__setitem__((0, 0), math.nan), "'pos' holds numbers that are not"),
    "no outputs": (lambda g: g.pop("forces"), "no energy and forces"),
    "size": (lambda g: g.update(forces=g["forces"][:3].clone()), "forces has shape"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_files_that_are_wrong_are_named(tmp_path, name):
    spoil, words = SPOILED[name]
    weights, outputs = made(tmp_path, 1, 1)
    given = load_file(outputs)
    spoil(given)
    save_file(given, outputs)
    with pytest.raises(ValueError, match=words) as error:
        compare_escn(weights, outputs)
    assert "outputs.safetensors" in str(error.value)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="a folder"):
        read_tensors(tmp_path)
    junk = tmp_path / "junk.safetensors"
    for content in (b"", b"\x08" + b"\0" * 7 + b"not json", b"\xff" * 64):
        junk.write_bytes(content)
        with pytest.raises(ValueError, match=r"junk.safetensors: not a"):
            read_tensors(junk)


def test_weights_that_say_no_cutoff_are_refused(tmp_path):
    weights = load_file(made(tmp_path, 1, 1)[0])
    del weights["module.distance_expansion.offset"]
    with pytest.raises(ValueError, match="cutoff is not known"):
        load_published(weights)
    assert set(TOLERANCES) == {torch.float32, torch.float64}
