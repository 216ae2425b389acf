"""UniDepth V2 against the official listings and the reference's size rules.

Its forward is no golden vector; tests/server/models/test_unidepth.py compares it.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.metric_depth.input_size import metric_input_size  # noqa: E402
from megasam_server.models.network_size import unidepth_size  # noqa: E402
from megasam_server.models.unidepth import UniDepthV2  # noqa: E402

from tests.server.golden.weight_rule import key_listing, shapes_of  # noqa: E402


@pytest.mark.parametrize("encoder", ["vits", "vitl"])
def test_golden_listing_is_ours_key_for_key(golden, encoder):
    with torch.device("meta"):
        network = UniDepthV2(encoder)
    official = key_listing(golden(f"unidepth_v2_{encoder}14_state_dict"))
    assert shapes_of(network.state_dict()) == official
    files = {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in official.items()
    }
    network.load_state_dict(files, strict=True, assign=True)


def test_golden_input_and_network_sizes(golden):
    for rule in golden("G16_resize_rules"):
        shown = metric_input_size(rule["w"], rule["h"])
        width, height, factor = unidepth_size(*shown)
        assert shown == tuple(rule["unidepth_input"])
        assert (height, width) == tuple(rule["unidepth_net_hw"])
        assert factor == rule["unidepth_ratio"]
