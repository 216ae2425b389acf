"""The package called lietorch: princeton-vl's, the unrelated one, a broken one, or none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Files of the package folder. princeton-vl defines its groups in groups.py; the package on PyPI
# (networks on homogeneous spaces) has no such file.
SE3 = "class SE3: InitFromVec = Identity = exp = log = inv = matrix = retr = act = None"
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
def test_kind_of_lietorch(tmp_path, files, kind):
    for name, text in files.items():
        (tmp_path / "lietorch").mkdir(exist_ok=True)
        (tmp_path / "lietorch" / name).write_text(text)
    code = (
        "import sys; from megasam_server.geometry.lietorch_check import find_lietorch as f;"
        "print(f().kind, f().message, f().hint, sep='|'); assert 'lietorch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found, message, hint = done.stdout.strip().split("|")
    assert found == kind
    assert ("PyPI" in message) == (kind == "unrelated")
    assert ("princeton-vl" in hint) == (kind in ("unrelated", "broken"))
    if files == BROKEN:
        assert "undefined symbol" in message
