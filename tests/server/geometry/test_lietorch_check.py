"""The package called lietorch: princeton-vl's, the unrelated one, a broken one, or none."""

from __future__ import annotations

import pytest

# Files of the package folder. princeton-vl defines its groups in groups.py; the package on PyPI
# (networks on homogeneous spaces) has no such file.
SE3 = "class SE3: InitFromVec = log = inv = retr = None"
PRINCETON = {"__init__.py": "from .groups import SE3", "groups.py": SE3}
UNRELATED = {"__init__.py": "raise SystemExit('must not be imported')", "bspline.py": ""}
OTHER_SE3 = {"__init__.py": "from .groups import SE3", "groups.py": "class SE3: exp = None"}
BROKEN = {"__init__.py": "raise ImportError('undefined symbol: _ZN3c10')", "groups.py": SE3}
CRASHES = {"__init__.py": "import os; os.abort()", "groups.py": SE3}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (PRINCETON, "princeton"),
        (UNRELATED, "unrelated"),
        (OTHER_SE3, "broken"),
        (BROKEN, "broken"),
        (CRASHES, "broken"),
        ({}, "absent"),
    ],
)
def test_kind_of_lietorch(run_with_lietorch, files, kind):
    printed = run_with_lietorch(
        files,
        "import sys; from megasam_server.geometry.lietorch_check import find_lietorch as f;"
        "print(f().kind, f().message, f().hint, sep='|'); assert 'lietorch' not in sys.modules",
    )
    found, message, hint = printed.split("|")
    assert found == kind
    assert ("PyPI" in message) == (kind == "unrelated")
    assert ("princeton-vl" in hint) == (kind in ("unrelated", "broken"))
    if files == BROKEN:
        assert "undefined symbol" in message
