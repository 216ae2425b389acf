"""The adapter of lietorch: which implementation is taken, and that both say the same."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.geometry import se3  # noqa: E402
from megasam_server.geometry.lietorch_check import find_lietorch  # noqa: E402
from megasam_server.geometry.lietorch_se3 import LietorchOperations, se3_operations  # noqa: E402

TRULY_THERE = find_lietorch().kind == "princeton"


@pytest.mark.skipif(TRULY_THERE, reason="princeton-vl's lietorch is installed")
def test_built_in_operations_where_lietorch_is_not():
    assert se3_operations() is se3


def test_lietorch_is_taken_where_it_is_there(run_with_lietorch):
    groups = (
        "class SE3:\n"
        "    inv = retr = None\n"
        "    def __init__(self, data): self.data = data\n"
        "    @classmethod\n"
        "    def InitFromVec(cls, data): return cls(data)\n"
        "    def log(self): return self.data[..., :6] + 41\n"
    )
    printed = run_with_lietorch(
        {"__init__.py": "from .groups import SE3", "groups.py": groups},
        "import torch; from megasam_server.geometry.lietorch_se3 import se3_operations as f;"
        "print(f().log(torch.ones(7)).tolist())",
    )
    assert printed == str([42.0] * 6)


@pytest.mark.skipif(not TRULY_THERE, reason="princeton-vl's lietorch is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lietorch_and_built_in_operations_agree(dtype):
    lietorch = se3_operations()
    assert isinstance(lietorch, LietorchOperations)
    generator = torch.Generator().manual_seed(0)
    twists = torch.randn(2, 5, 6, generator=generator, dtype=dtype)
    # Other leading axes than the poses, and not contiguous.
    others = torch.randn(6, 5, generator=generator, dtype=dtype).mT
    poses = se3.exp(twists)
    for name, arguments in {
        "log": (poses,),
        "inverse": (poses,),
        "compose": (poses, se3.exp(others)),
        "retract": (poses, others),
    }.items():
        theirs = getattr(lietorch, name)(*arguments)
        torch.testing.assert_close(theirs, getattr(se3, name)(*arguments), msg=name)
