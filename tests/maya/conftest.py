"""A fresh stand-in for Maya, and the plug-in's host in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_maya import running_maya
from tests.fake_maya.scene import Scene


@pytest.fixture
def maya() -> Iterator[Scene]:
    with running_maya() as scene:
        yield scene


@pytest.fixture
def host(maya):
    from megasam_maya.host import MayaHost

    return MayaHost()


@pytest.fixture
def cmds(maya):
    import maya.cmds as commands

    return commands
