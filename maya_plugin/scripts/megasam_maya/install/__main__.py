"""``mayapy -m megasam_maya.install --uninstall``: for when the download is gone."""

from __future__ import annotations

import sys

from megasam_maya.install.command_line import main

sys.exit(main(sys.argv[1:], None))
