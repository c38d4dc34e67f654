"""The published eSCN step by step as the paper states it: what the fast one is held against.

Everything `egno_md.models.escn` does at once is done here one thing at a time: both atoms of an
edge are rotated on their own, coefficients are brought from degree-by-degree order to m-primary
order and back with a matrix of zeros and ones, every weight matrix is a product of its own, and
all edges go through each step together. Grids are made by e3nn.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from egno_md.models.edge_frame import edge_frames
from egno_md.models.escn import ESCN, OUTPUT_SCALE
from egno_md.models.so2_convolution import edge_order
from egno_md.models.sphere_grid import kept_rows, published_longitudes
from egno_md.models.wigner import WignerMatrices, stack_blocks


def _published_grid(max_degree: int, max_order: int) -> tuple[Tensor, Tensor]:
    """Grid matrices `(n_latitudes, n_longitudes, n_coefficients)` as e3nn makes them."""
    size = (2 * (max_degree + 1), published_longitudes(max_degree, max_order))
    usual = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import FromS2Grid, ToS2Grid

        # Some of its constants have the default type whatever it is asked for.
        torch.set_default_dtype(torch.float64)
        try:
            to = ToS2Grid(max_degree, size, normalization="integral")
            back = FromS2Grid(size, max_degree, normalization="integral")
        finally:
            torch.set_default_dtype(usual)
    rows = kept_rows(max_degree, max_order)
    to_grid = torch.einsum("mbi,am->bai", to.shb, to.sha)[:, :, rows]
    from_grid = torch.einsum("am,mbi->bai", back.sha, back.shb)[:, :, rows]
    return to_grid, from_grid


class PlainESCN(nn.Module):
    """The same energies and forces as an `ESCN`, from the same weights, the long way."""

    def __init__(self, model: ESCN) -> None:
        """Take the weights of a model.

        Args:
            model: the weights are shared, not copied.
        """
        super().__init__()
        self.settings = model.architecture()
        self.weights = dict(model.state_dict())
        like = model.sphere_embedding.weight
        degree, order = self.settings["max_degree"], self.settings["max_order"]
        self.wigner = WignerMatrices(degree).to(like)
        self.rows = torch.tensor(kept_rows(degree, order))
        index, _ = edge_order(degree, order)
        # One row per m-primary coefficient, with a 1 where it stands degree by degree.
        self.order = (torch.tensor(index)[:, None] == self.rows).to(like)
        self.edge_grid = [m.to(like) for m in _published_grid(degree, order)]
        self.atom_grid = [m.to(like) for m in _published_grid(degree, degree)]

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        batch: Tensor,
        n_graphs: int,
        frames: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return energies and forces; arguments and units are those of `ESCN.forward`."""
        w, a = self.weights, self.settings
        source, target = edge_index[0], edge_index[1]
        arrows = (positions[source] + shifts - positions[target]).to(self.order)
        d = arrows.norm(dim=1)
        frames = edge_frames(arrows / d[:, None]) if frames is None else frames.to(self.order)
        turn = stack_blocks(self.wigner(frames), torch.arange((a["max_degree"] + 1) ** 2))
        x = torch.zeros(len(numbers), turn.shape[1], a["channels"]).to(self.order)
        x[:, 0] = w["sphere_embedding.weight"][numbers]
        for k in range(a["n_layers"]):
            name = f"layer_blocks.{k}."
            m = self._message(f"{name}message_block.", x, numbers, source, target, d, turn)
            to, back = self.atom_grid
            g = torch.cat([torch.einsum("bai,zic->zbac", to, part) for part in (x, m)], 3)
            g = silu(linear(g, w[f"{name}fc1_sphere.weight"]))
            g = silu(linear(g, w[f"{name}fc2_sphere.weight"]))
            g = linear(g, w[f"{name}fc3_sphere.weight"])
            change = torch.einsum("bai,zbac->zic", back, g)
            x = x + change if k else change
        seen = torch.einsum("zic,pi->zpc", x, w["sphharm_weights.0"])
        atoms = self._head("energy_block.", seen).mean(1)[:, 0].double() * OUTPUT_SCALE
        forces = (self._head("force_block.", seen) * w["sphere_points"]).mean(1)
        energy = atoms.new_zeros(n_graphs).index_add(0, batch, atoms) * a["energy_scale_eV"]
        energy = energy + a["energy_shift_eV"]
        if a["reference_energies_eV"]:
            own = torch.tensor(a["reference_energies_eV"], dtype=torch.float64)[numbers]
            energy = energy.index_add(0, batch, own)
        return energy, forces * a["force_scale_eV_A"]

    def _head(self, name: str, seen: Tensor) -> Tensor:
        w = self.weights
        h = silu(linear(seen, w[f"{name}fc1.weight"], w[f"{name}fc1.bias"]))
        h = silu(linear(h, w[f"{name}fc2.weight"], w[f"{name}fc2.bias"]))
        return linear(h, w[f"{name}fc3.weight"])

    def _message(
        self,
        name: str,
        x: Tensor,
        numbers: Tensor,
        source: Tensor,
        target: Tensor,
        d: Tensor,
        turn: Tensor,
    ) -> Tensor:
        e = self._edge(f"{name}edge_block.", numbers[source], numbers[target], d)
        into = turn[:, self.rows]
        sent = self._so2(f"{name}so2_block_source.", torch.bmm(into, x[source]), e)
        kept = self._so2(f"{name}so2_block_target.", torch.bmm(into, x[target]), e)
        to, back = self.edge_grid
        grid = silu(torch.einsum("bai,zic->zbac", to, sent + kept))
        bent = torch.einsum("bai,zbac->zic", back, grid)
        messages = torch.bmm(into.transpose(1, 2), bent)
        return torch.zeros_like(x).index_add(0, target, messages)

    def _edge(self, name: str, first: Tensor, second: Tensor, d: Tensor) -> Tensor:
        w, a = self.weights, self.settings
        centres = w["distance_expansion.offset"]
        width = a["basis_width"] * a["cutoff_A"] / (len(centres) - 1)
        g = torch.exp(-0.5 / width**2 * (d[:, None] - centres) ** 2)
        h = linear(g, w[f"{name}fc1_dist.weight"], w[f"{name}fc1_dist.bias"])
        h = h + w[f"{name}source_embedding.weight"][first]
        h = h + w[f"{name}target_embedding.weight"][second]
        return silu(
            linear(silu(h), w[f"{name}fc1_edge_attr.weight"], w[f"{name}fc1_edge_attr.bias"])
        )

    def _so2(self, name: str, x: Tensor, e: Tensor) -> Tensor:
        """Map coefficients `(n_edges, n_coefficients, channels)`, degree by degree."""
        w, degree, (n, _, c) = self.weights, self.settings["max_degree"], x.shape
        x = torch.einsum("nac,ba->nbc", x, self.order)
        gate = silu(linear(e, w[f"{name}fc1_dist0.weight"], w[f"{name}fc1_dist0.bias"]))
        first = linear(x[:, : degree + 1].reshape(n, -1), w[f"{name}fc1_m0.weight"])
        out, at = [linear(gate * first, w[f"{name}fc2_m0.weight"]).view(n, -1, c)], degree + 1
        for m in range(1, self.settings["max_order"] + 1):
            own, size = f"{name}so2_conv.{m - 1}.", degree + 1 - m
            gate = silu(linear(e, w[f"{own}fc1_dist.weight"], w[f"{own}fc1_dist.bias"]))
            gate = gate.view(n, 2, -1)
            pair = x[:, at : at + 2 * size].reshape(n, 2, size * c)
            real = linear(pair, w[f"{own}fc1_r.weight"]) * gate[:, :1]
            real = linear(real, w[f"{own}fc2_r.weight"])
            imaginary = linear(pair, w[f"{own}fc1_i.weight"]) * gate[:, 1:]
            imaginary = linear(imaginary, w[f"{own}fc2_i.weight"])
            out.append((real[:, 0] - imaginary[:, 1]).view(n, -1, c))
            out.append((real[:, 1] + imaginary[:, 0]).view(n, -1, c))
            at += 2 * size
        return torch.einsum("nac,ab->nbc", torch.cat(out, 1), self.order)
