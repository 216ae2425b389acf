"""A client asks a real server which checkpoints it has."""

from __future__ import annotations

from megasam_server.checkpoints.registry import CHECKPOINTS
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient


def test_a_client_sees_what_is_there_and_what_it_may_be_used_for(folder):
    (folder / "unidepth_v2_vits14.bin").write_bytes(b"nobody looks into it yet")
    (folder / "raft-things.pth").write_bytes(b"cut off")
    with PrivateServer() as server, SolverClient(server.address, name="test") as client:
        client.connect(20)
        facts = {fact.name: fact for fact in client.list_checkpoints()}
    assert set(facts) == {checkpoint.name for checkpoint in CHECKPOINTS}
    large = facts["depth_anything_v2_vitl"]
    assert (large.title, large.state) == ("Depth Anything V2 Large", "missing")
    assert (large.licence, large.commercial_use) == ("CC-BY-NC-4.0", False)
    assert facts["megasam"].commercial_use is True
    assert facts["unidepth_v2_vits"].state == "unchecked"
    assert facts["raft_things"].state == "damaged"
    assert "instead of 21,108,000" in facts["raft_things"].reason
