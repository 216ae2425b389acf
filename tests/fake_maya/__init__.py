"""A stand-in for Maya: not a mock, but the part of its semantics that the plug-in relies on.

Only the commands in use are there. What is not certain about Maya is modelled in the harder way, or
can be switched (``Scene.image_plane_drive``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tests.fake_maya.api import api_modules
from tests.fake_maya.commands import module_functions
from tests.fake_maya.scene import Scene

_NAMES = ("maya", "maya.cmds", "maya.api", "maya.api.OpenMaya", "maya.api.OpenMayaAnim")
# What has bound the commands of an earlier stand-in.
_BOUND = "megasam_maya.host"


@contextmanager
def running_maya() -> Iterator[Scene]:
    """A fresh session whose ``maya.cmds`` and ``maya.api`` can be imported inside."""
    scene = Scene()
    kept = {name: sys.modules.pop(name, None) for name in (*_NAMES, _BOUND)}
    modules = {name: ModuleType(name) for name in _NAMES}
    vars(modules["maya.cmds"]).update(module_functions(scene))
    for name, namespace in zip(_NAMES[3:], api_modules(scene), strict=True):
        vars(modules[name]).update(vars(namespace))
    for name, module in modules.items():
        above, _, leaf = name.rpartition(".")
        if above:
            setattr(modules[above], leaf, module)
    sys.modules.update(modules)
    try:
        yield scene
    finally:
        for name, module in kept.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
