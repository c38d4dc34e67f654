# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
# ---

# %% [markdown]
# # A tensor product that is an SO(2) convolution
#
# Equivariant networks combine the features $x$ of an atom with the spherical harmonics $Y$ of an
# edge, one weight matrix $h$ for each path $(l_i, l_f, l_o)$, $C$ the Wigner 3j symbols:
#
# $$y^{l_o}_n = \sum_{l_i, l_f, m, k} C^{l_i l_f l_o}_{mkn}\, Y^{l_f}_k\, x^{l_i}_m\, h$$
#
# Turn the edge onto the y axis, and of $Y^{l_f}_k$ only $\sqrt{2 l_f + 1}$ at $k = 0$ is left. The
# sum over $l_f$ goes into the weights, and each order $m$ is on its own
# (eSCN, arXiv 2302.03655):
#
# $$W^m_{l_i l_o} = \sum_{l_f} \sqrt{2 l_f + 1}\; C^{l_i l_f l_o}_{m,0,\pm m}\, h$$
#
# This is no approximation: as many weights, and the map goes both ways.

# %%
import os
import statistics

import matplotlib.pyplot as plt
import torch

from egno_md.benchmarks.full_tensor_product import (
    edge_harmonics,
    from_e3nn,
    full_tensor_product,
    to_e3nn,
)
from egno_md.benchmarks.so2 import exponent, time_degree
from egno_md.models.edge_frame import edge_frames
from egno_md.models.so2_convolution import edge_order, order_sizes
from egno_md.models.so2_weights import equal_convolution, path_weights, tensor_product_paths
from egno_md.models.wigner import WignerMatrices, stack_blocks

degrees = [1, 2, 3] if os.environ.get("EGNO_MD_SMOKE") else [1, 2, 3, 4]
generator = torch.Generator().manual_seed(1)
torch.set_num_threads(1)


def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# Edges: along the polar axis, 1e-9 off it, and twenty anywhere.

# %%
poles = torch.tensor([[0, 1, 0], [0, -1, 0], [1e-9, 1, 0], [1e-9, -1, 0]], dtype=torch.float64)
directions = torch.nn.functional.normalize(torch.cat((poles, normal(20, 3))), dim=-1)

# %% [markdown]
# The tensor product by e3nn, and the SO(2) convolution with the same weights.


# %%
def by_tensor_product(features, weights, max_degree):
    channels = features.shape[2]
    product = full_tensor_product(max_degree, channels, channels, torch.float64)
    harmonics = edge_harmonics(directions, 2 * max_degree)
    return from_e3nn(product(to_e3nn(features), harmonics, weights.flatten()), max_degree)


def by_so2(features, convolution, max_degree):
    order = torch.tensor(edge_order(max_degree, max_degree)[0])
    into_frame = stack_blocks(WignerMatrices(max_degree).double()(edge_frames(directions)), order)
    parts = torch.split(into_frame @ features, order_sizes(max_degree, max_degree), 1)
    return into_frame.transpose(1, 2) @ torch.cat(convolution(parts), 1)


# %%
worst = 0.0
for max_degree in degrees:
    weights = normal(len(tensor_product_paths(max_degree)), 4, 4)
    features = normal(len(directions), (max_degree + 1) ** 2, 4)
    convolution = equal_convolution(weights, max_degree).requires_grad_(False)
    expected = by_tensor_product(features, weights, max_degree)
    difference = by_so2(features, convolution, max_degree) - expected
    error = float(difference.abs().max() / expected.abs().max())
    back = path_weights(list(convolution.real), list(convolution.imaginary), max_degree)
    lost = float((back - weights).abs().max())
    worst = max(worst, error)
    print(f"L = {max_degree}: {len(weights)} paths, results {error:.0e}, weights back {lost:.0e}")
assert worst < 1e-10
print(f"largest relative difference of the two results: {worst:.0e}")

# %% [markdown]
# The cost is another matter. Processor time per edge, 32 channels, 128 edges, float32, one thread;
# `egno-md benchmark so2` goes on to L = 6.

# %%
times = [time_degree(max_degree, generator, rounds=5) for max_degree in degrees]
for mine in times:
    print(f"L = {mine.max_degree}: ratio {statistics.median(mine.ratios()):.0f}")

# %%
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for name, costs in (
    ("SO(3) tensor product, e3nn", [mine.so3_us for mine in times]),
    ("SO(2), with rotations", [mine.so2_us for mine in times]),
    ("SO(2) alone", [mine.so2_alone_us for mine in times]),
):
    cost = [statistics.median(turns) for turns in costs]
    power = exponent(degrees, cost)
    axes.loglog([k + 1 for k in degrees], cost, "o-", label=f"{name}: (L + 1)^{power:.1f}")
axes.set_xticks([k + 1 for k in degrees], [str(k) for k in degrees])
axes.minorticks_off()
axes.set(xlabel="highest degree L", ylabel="processor time per edge (µs)")
figure.legend(loc="outside upper center")
figure.savefig("so2_convolution.png", dpi=120)
