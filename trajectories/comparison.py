"""How a trajectory's statistics compare with a reference, each number beside its noise floor.

A reference belongs to a molecule whose atoms may stand in another order than the run's. Bonds,
angles and torsions are therefore compared as classes of alike ones (`bond_classes.py`), which
no order changes; each bond still gets its own reference mean through its class or, where the
order is the same, from the very bond. A reference whose classes differ is of another molecule
and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.state import Molecule
from egno_md.trajectories.bond_classes import InternalCoordinates, internal_coordinates
from egno_md.trajectories.divergence import (
    Measure,
    block_bootstrap,
    density_difference,
    jensen_shannon,
    sampling_floor,
)
from egno_md.trajectories.histograms import Bins, sum_alike
from egno_md.trajectories.radial_distribution import (
    RadialDifference,
    mean_volume_A3,
    radial_labels,
    radial_range_A,
)

#: Keys without which a dictionary of tensors is not a reference.
REQUIRED_KEYS = (
    "numbers",
    "bonds",
    "bond_class",
    "bond_mean_A",
    "bond_low_A",
    "bond_counts",
    "bond_inefficiency_fs",
    "block_frames",
    "frame_interval_fs",
)

#: Largest difference in volume between a run's cell and that of its reference.
_VOLUME_TOLERANCE = 0.005

#: Largest difference in temperature between a run and the reference it is held against.
_TEMPERATURE_TOLERANCE = 0.03

#: Frames no farther apart than this follow the stiffest vibrations, fs.
_FOLLOWED_FS = 10.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One measured difference between a run and its reference.

    Attributes:
        label: what was compared, for people.
        value: the difference.
        error: its standard error from the run's own blocks, NaN with one block.
        floor: the difference that chance alone gives at this length, on average.
        floor_high: 95 % of chance differences are smaller.
    """

    label: str
    value: float
    error: float
    floor: float
    floor_high: float

    @property
    def ratio(self) -> float:
        """Difference over floor; 0 when both are 0."""
        if self.floor > 0:
            return self.value / self.floor
        return 0.0 if self.value <= 1e-12 else float("inf")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against its reference.

    Attributes:
        run_blocks: length of the run in blocks of the reference.
        reference_blocks: blocks of the reference.
        block_ps: length of a reference block, ps.
        extrapolated: whether the floor had to be carried to the run's length by its law.
        same_order: whether the atoms stand in the reference's order.
        bonds: Jensen-Shannon divergence of each class of alike bonds.
        bond_mean: their average.
        angles: likewise for angles, empty when the reference has none.
        torsions: likewise for torsions.
        pairs: mean absolute difference of h(r), or None when either has no h(r).
        radial: mean absolute difference of g(r) of each pair of elements, empty without a cell.
        radial_mean: their average.
    """

    run_blocks: float
    reference_blocks: int
    block_ps: float
    extrapolated: bool
    same_order: bool
    bonds: tuple[Difference, ...]
    bond_mean: Difference | None
    angles: tuple[Difference, ...]
    torsions: tuple[Difference, ...]
    pairs: Difference | None
    radial: tuple[Difference, ...] = ()
    radial_mean: Difference | None = None


def check_reference(reference: Mapping[str, Tensor]) -> Molecule:
    """Say whether tensors are reference statistics, and of which molecule.

    Args:
        reference: what `reference.safetensors` holds.

    Returns:
        The reference's molecule, with standard masses.

    Raises:
        ValueError: naming the keys that are missing or the newer format.
    """
    missing = [key for key in REQUIRED_KEYS if key not in reference]
    if missing:
        raise ValueError(
            f"reference statistics lack {', '.join(missing)}; make them with `egno-md reference`"
        )
    version = int(reference.get("format_version", torch.tensor(1)))
    if version > 1:
        raise ValueError(
            f"reference statistics have format {version}; this egno-md reads up to 1: upgrade it"
        )
    return Molecule.from_numbers(reference["numbers"], bonds=reference["bonds"])


def temperature_mismatch(reference: Mapping[str, Tensor], kelvin: float) -> str | None:
    """Say why a run at a temperature cannot be held against a reference, or None.

    Distributions widen with temperature: 5 % more is 5 % more variance.

    Args:
        reference: what `reference.safetensors` holds.
        kelvin: temperature of the run, of its thermostat if it has one.
    """
    if "temperature_K" not in reference:
        return None
    there = float(reference["temperature_K"])
    if abs(kelvin - there) <= _TEMPERATURE_TOLERANCE * there:
        return None
    return f"it was made at {there:g} K and this run is at {kelvin:g} K"


def same_order(reference: Mapping[str, Tensor], molecule: Molecule) -> bool:
    """Say whether a molecule has the reference's atoms and bonds in the reference's order."""
    return torch.equal(reference["numbers"], molecule.numbers) and torch.equal(
        reference["bonds"], molecule.bonds
    )


def reference_bond_means(reference: Mapping[str, Tensor], molecule: Molecule) -> Tensor:
    """Mean length of each of a molecule's bonds, whatever order its atoms stand in.

    Args:
        reference: what `reference.safetensors` holds.
        molecule: whose bonds.

    Returns:
        `(n_bonds,)` float64, Å, in the order of `molecule.bonds`.

    Raises:
        ValueError: if the reference is of another molecule.
    """
    return _per_bond(reference, molecule, "bond_mean_A")


def bins_for(
    reference: Mapping[str, Tensor], molecule: Molecule, cell: Tensor | None = None
) -> Bins:
    """Return the reference's bins for a molecule, so that both are counted alike.

    Args:
        reference: what `reference.safetensors` holds.
        molecule: the run's molecule.
        cell: `(n_replicas, 3, 3)`, Å, of the run, or None without periodicity.

    Raises:
        ValueError: if the reference is of another molecule, or one of the two has a cell and the
            other has none or one of another volume or too thin.
    """
    low = _per_bond(reference, molecule, "bond_low_A")
    high_A = float(reference["radial_high_A"]) if "radial_high_A" in reference else None
    here = cell if all(molecule.pbc) else None
    if high_A is None and here is None:
        return Bins(internal_coordinates(molecule), low)
    if high_A is None or here is None:
        one, other = ("reference", "run") if here is None else ("run", "reference")
        raise ValueError(f"the {one} is of a periodic cell and the {other} of none")
    there_A3, here_A3 = float(reference["volume_A3"]), mean_volume_A3(here)
    if abs(here_A3 / there_A3 - 1.0) > _VOLUME_TOLERANCE:
        raise ValueError(
            f"it was made in a cell of {there_A3:.1f} Å^3 and this run is in one of {here_A3:.1f}"
        )
    if radial_range_A(here) < high_A * (1.0 - 1e-6):
        raise ValueError(
            f"its g(r) reaches to {high_A:.2f} Å and the cell of this run only to "
            f"{radial_range_A(here):.2f} Å"
        )
    return Bins(internal_coordinates(molecule), low, high_A)


def compare(
    run: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    molecule: Molecule,
    generator: torch.Generator,
) -> Comparison:
    """Compare a run with a reference.

    Args:
        run: statistics of the run, counted in the bins of `bins_for`.
        reference: what `reference.safetensors` holds.
        molecule: the run's molecule.
        generator: draws blocks for floors and errors.

    Raises:
        ValueError: if the reference is of another molecule.
    """
    there, here = _matched(reference, molecule)
    length = run_length_in_blocks(run, reference)
    kept = share_of_frames(run, reference, length)
    n_blocks = int(reference["block_frames"].shape[0])
    scale = (length, generator, kept)

    def differences(key: str, labels: tuple[str, ...]) -> tuple[Difference, ...]:
        mine, theirs = run.get(key), reference.get(key)
        if mine is None or theirs is None or not labels:
            return ()
        if key == "bond_counts":
            mine = sum_alike(mine, here.bond_class, len(labels))
            theirs = sum_alike(theirs, there.bond_class, len(labels))
        return _differences(mine, theirs, labels, jensen_shannon, 1.0, *scale)

    def mean_of_bonds() -> Difference | None:
        if not here.bond_keys:
            return None
        mine = sum_alike(run["bond_counts"], here.bond_class, len(here.bond_keys))
        theirs = sum_alike(reference["bond_counts"], there.bond_class, len(there.bond_keys))
        (found,) = _differences(mine, theirs, ("all bonds",), _mean_divergence, 1.0, *scale)
        return found

    pairs, name = None, "pair_counts"
    if all(name in s and bool(s[name].any()) for s in (run, reference)):
        both = run[name], reference[name]
        (pairs,) = _differences(both[0], both[1], ("h(r)",), density_difference, 0.5, *scale)
    radial, radial_mean = _radial_differences(run, reference, *scale)
    seconds = reference["block_frames"].double().mean() * reference["frame_interval_fs"]
    return Comparison(
        length,
        n_blocks,
        float(seconds) * 1e-3,
        not 1.0 <= length <= n_blocks / 2,
        same_order(reference, molecule),
        differences("bond_counts", here.bond_labels),
        mean_of_bonds(),
        differences("angle_counts", here.angle_labels),
        differences("torsion_counts", here.torsion_labels),
        pairs,
        radial,
        radial_mean,
    )


def _radial_differences(
    run: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    length: float,
    generator: torch.Generator,
    kept: float,
) -> tuple[tuple[Difference, ...], Difference | None]:
    """Differences of g(r): of each pair of elements, and their mean."""
    name = "radial_counts"
    if not all(name in s and bool(s[name].any()) for s in (run, reference)):
        return (), None
    both = run[name], reference[name]
    where = float(reference["radial_high_A"]), float(reference["volume_A3"])
    labels = radial_labels(reference["radial_elements"])
    scale = (length, generator, kept)
    each = _differences(both[0], both[1], labels, RadialDifference(*where), 0.5, *scale)
    averaged = RadialDifference(*where, mean=True)
    (mean,) = _differences(both[0], both[1], ("g(r)",), averaged, 0.5, *scale)
    return each, mean


def run_length_in_blocks(run: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Length of a run in blocks of the reference, as far as sampling noise goes.

    Frames closer together than the correlation time of the bonds, or of g(r), count together; so
    a run with frames every 8 fs and a reference with frames every 2 fs are put on one scale.

    Args:
        run: statistics of the run.
        reference: what `reference.safetensors` holds.
    """
    slowest = float(reference["bond_inefficiency_fs"].amax()) if len(reference["bonds"]) else 0.0
    slowest = max(slowest, float(reference.get("radial_inefficiency_fs", 0.0)))

    def independent(statistics: Mapping[str, Tensor], frames: Tensor) -> float:
        interval_fs = float(statistics["frame_interval_fs"])
        return float(frames) * interval_fs / max(slowest, interval_fs)

    block = independent(reference, reference["block_frames"].double().mean())
    return independent(run, run["block_frames"].sum()) / block


def share_of_frames(
    run: Mapping[str, Tensor], reference: Mapping[str, Tensor], length: float
) -> float:
    """Frames of a run over those that the reference has in its place, 1 at most.

    Frames within a vibration follow one another and are not told apart here. Farther apart each
    is a draw of its own, and few of them fill histograms with noise that time alone does not tell.

    Args:
        run: statistics of the run.
        reference: what `reference.safetensors` holds.
        length: of the run, in blocks of the reference.
    """
    if float(run["frame_interval_fs"]) <= _FOLLOWED_FS:
        return 1.0
    there = length * float(reference["block_frames"].double().mean())
    return min(1.0, float(run["block_frames"].sum()) / there)


def _mean_divergence(first: Tensor, second: Tensor) -> Tensor:
    return jensen_shannon(first, second).mean(-1)


def _differences(
    mine: Tensor,
    theirs: Tensor,
    labels: tuple[str, ...],
    measure: Measure,
    noise_power: float,
    length: float,
    generator: torch.Generator,
    kept: float,
) -> tuple[Difference, ...]:
    filled = mine.reshape(mine.shape[0], -1).sum(-1) > 0
    value, error = block_bootstrap(mine[filled], theirs.sum(0), measure, generator)
    floor = sampling_floor(theirs, length, measure, generator, noise_power=noise_power, kept=kept)
    columns = (value, error, floor.mean, floor.high)
    rows = zip(*(c.reshape(-1).tolist() for c in columns), strict=True)
    return tuple(Difference(label, *row) for label, row in zip(labels, rows, strict=True))


def _matched(
    reference: Mapping[str, Tensor], molecule: Molecule
) -> tuple[InternalCoordinates, InternalCoordinates]:
    """Internal coordinates of reference and molecule, known to have the same classes."""
    other = check_reference(reference)
    there, here = internal_coordinates(other), internal_coordinates(molecule)
    same = (
        torch.equal(other.numbers.sort().values, molecule.numbers.sort().values)
        and there.bond_keys == here.bond_keys
        and there.angle_keys == here.angle_keys
        and there.torsion_keys == here.torsion_keys
        and torch.equal(torch.bincount(there.bond_class), torch.bincount(here.bond_class))
    )
    if not same:
        raise ValueError(
            f"the reference statistics are of another molecule: {other.n_atoms} atoms with "
            f"{len(other.bonds)} bonds, the run has {molecule.n_atoms} atoms with "
            f"{len(molecule.bonds)} bonds of other elements or connections"
        )
    return there, here


def _per_bond(reference: Mapping[str, Tensor], molecule: Molecule, key: str) -> Tensor:
    """Carry a per-bond value over: bond by bond, or through the classes in another order."""
    there, here = _matched(reference, molecule)
    values = reference[key].to(torch.float64)
    if same_order(reference, molecule):
        return values
    n = len(there.bond_keys)
    total = torch.zeros(n, dtype=torch.float64).index_add_(0, there.bond_class, values)
    return (total / torch.bincount(there.bond_class, minlength=n).clamp_min(1))[here.bond_class]
