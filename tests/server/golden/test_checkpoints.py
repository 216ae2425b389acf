"""Names and shapes that the loader asks of published files, against the reference's listings."""

from __future__ import annotations

import pytest

LISTINGS = {
    "droid": "droid_state_dict",
    "raft": "raft_state_dict",
    # Both versions of Depth Anything have the same names and shapes; V1 is listed as ViT-S only.
    "depth_anything_v1_vitl": "dav2_vitl_state_dict",
    "depth_anything_v2_vits": "dav1_vits_state_dict",
    "depth_anything_v2_vitb": "dav2_vitb_state_dict",
    "depth_anything_v2_vitl": "dav2_vitl_state_dict",
    "unidepth_v2_vits": "unidepth_v2_vits14_state_dict",
    "unidepth_v2_vitl": "unidepth_v2_vitl14_state_dict",
}


@pytest.mark.parametrize("network", LISTINGS)
def test_golden_checkpoint_listings(golden, network):
    """Exactly the reference's names, and each of its shapes."""
    pytest.importorskip("torch")
    from megasam_server.checkpoints.architectures import ARCHITECTURES, official_shapes

    assert set(LISTINGS) == set(ARCHITECTURES)
    listing = golden(LISTINGS[network])
    wanted = {name: tuple(entry["shape"]) for name, entry in listing.items()}
    assert official_shapes(network) == wanted
