from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from egno_md.data.adk import (
    chronological_starts,
    contact_graph,
    find_adk_files,
    psf_charges,
    read_backbone,
)

PSF = """PSF

       1 !NTITLE
* made up

       3 !NATOM
       1 4AKE 1    MET  N      56  -0.300000       14.0070           0   0.00000     -0.301140E-02
       2 4AKE 1    MET  CA     22   0.210000       12.0110           0   0.00000     -0.301140E-02
       3 4AKE 1    MET  C      20   0.510000       12.0110           0   0.00000     -0.301140E-02

"""


@pytest.fixture
def psf(tmp_path):
    path = tmp_path / "adk.psf"
    path.write_text(PSF)
    return path


def test_charges_come_from_the_list_of_atoms(psf):
    assert psf_charges(psf).tolist() == [-0.3, 0.21, 0.51]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PSF.replace("!NATOM", "!NBOND"), "no list of atoms"),
        (PSF.replace("0.510000", "heavy"), "no charge in its 7th field"),
        (PSF.replace("0.510000", "nan"), "3 atoms"),
        (PSF.partition("       3 4AKE")[0], "announces 3 atoms and has 2"),
    ],
)
def test_a_wrong_topology_is_refused(psf, text, message):
    psf.write_text(text)
    with pytest.raises(ValueError, match=message):
        psf_charges(psf)


def test_files_are_found_or_named(psf):
    folder = psf.parent
    with pytest.raises(FileNotFoundError, match=r"adk_dims\.dcd"):
        find_adk_files(folder, "dims")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_backbone(psf, folder / "other.dcd")
    (folder / "other.dcd").touch()
    assert find_adk_files(folder, "other.dcd") == (psf, folder / "other.dcd")


def test_contacts_are_pairs_within_the_cutoff():
    positions = torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 4, 0], [3, 4, 3.5]])
    edges = contact_graph(positions, 4.5)
    assert edges.T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]]
    assert contact_graph(positions, 1.0).shape == (2, 0)
    with pytest.raises(ValueError, match="cutoff_A must be positive"):
        contact_graph(positions, 0.0)


def test_starts_are_in_the_order_of_time_with_room_for_targets():
    # The published lengths: int(0.6 n), int(0.8 n), n with n = frames - 1 - delta_frame.
    starts = chronological_starts(98, 15)
    assert starts == {
        "training": range(0, 49),
        "validation": range(49, 65),
        "test": range(65, 82),
    }
    with pytest.raises(ValueError, match="too few"):
        chronological_starts(18, 15)
    with pytest.raises(ValueError, match="shares must be"):
        chronological_starts(98, 15, (0.6, 0.4))


def test_the_backbone_of_adenylate_kinase():
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    found = read_backbone(*find_adk_files(Path(folder), "dims"))
    assert found.positions.shape == (98, 4 * 214, 3)
    assert set(found.names) == {"N", "CA", "C", "O"}
    n, ca, c = (found.positions[:, found.names.index(name)] for name in ("N", "CA", "C"))
    assert ((n - ca).norm(dim=-1) - 1.47).abs().max() < 0.15  # Å, not nm
    assert ((ca - c).norm(dim=-1) - 1.52).abs().max() < 0.15
    # The charges of the force field belong to these atoms.
    assert found.charges[[found.names.index(k) for k in ("C", "O")]].tolist() == pytest.approx(
        [0.51, -0.51]
    )
