"""The setting model_path: clients name no folder of the server that is not shared for it."""

from __future__ import annotations

import os

import pytest
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import JOB_FUNCTION
from tests.server.service.curve_server import CurveStudio


def test_only_shared_folders_may_be_named(tmp_path, make_plate):
    shared, other = tmp_path / "shared", tmp_path / "shared weights"
    for folder in (shared / "large", other):
        folder.mkdir(parents=True)
    os.symlink(other, shared / "link")
    with CurveStudio(tmp_path, checkpoint_roots=[shared]) as studio:
        client = studio.client(studio.keys("anna"))
        plate = client.upload(make_plate())
        for path in (
            *(other, shared / "link", shared / ".." / "shared weights", shared / "large" / "../.."),
            *("/etc", "/none", "shared", "~/x", str(shared) + " weights", "C:\\weights"),
        ):
            with pytest.raises(MegasamError) as caught:
                client.submit(plate, SolveSettings(model_path=str(path)))
            assert caught.value.code == "path_not_allowed", path
            assert "checkpoint_roots" in caught.value.hint
        assert client.list_jobs() == []
        for path in (shared, shared / "large", shared / "not there yet", ""):
            job = client.submit(plate, SolveSettings(model_path=str(path)))
            assert client.wait(job.job, timeout=20).state == "done"


def test_private_server_is_its_users_own(tmp_path, make_plate):
    with PrivateServer(JOB_FUNCTION) as server, SolverClient(server.address) as client:
        client.connect(10)
        plate = client.upload(make_plate())
        assert client.submit(plate, SolveSettings(model_path=str(tmp_path))).job
