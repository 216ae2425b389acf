"""The systemd unit of a server, as ``megasam serve --systemd-unit`` prints it."""

from __future__ import annotations

import getpass
import shlex
import shutil
import sys
from pathlib import Path

from megasam_server.service.config_file import read_config

# After the drain: ends of workers, the last answers.
_STOP_MARGIN = 60

_UNIT = """\
# MegaSAM solver server. As /etc/systemd/system/megasam.service:
#   sudo systemctl daemon-reload && sudo systemctl enable --now megasam
# 'systemctl stop megasam' lets running jobs reach the end of their stage; jobs stay on the disk.
[Unit]
Description=MegaSAM solver server
Documentation=file:{config}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
ExecStart={command}
# SIGTERM is for the server alone, which looks after its workers; they would die of it.
KillMode=mixed
TimeoutStopSec={stop_seconds}
Restart=on-failure
RestartSec=5
# A mistake in the settings does not mend itself.
RestartPreventExitStatus=2
NoNewPrivileges=yes
ProtectSystem=full
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def unit(config: Path) -> str:
    """The text of a unit that starts a server of this installation.

    Args:
        config: its config file, which must be there.

    Raises:
        MegasamError: what is wrong with the file.
    """
    values = read_config(config).values
    command = [*_megasam(), "serve", "--config", str(config.absolute())]
    return _UNIT.format(
        config=config.absolute(),
        user=getpass.getuser(),
        # systemd replaces % in commands.
        command=shlex.join(command).replace("%", "%%"),
        stop_seconds=round(values["server.drain_minutes"] * 60) + _STOP_MARGIN,
    )


def _megasam() -> list[str]:
    """The command of this installation."""
    program = shutil.which("megasam", path=str(Path(sys.executable).parent))
    if program is not None:
        return [program]
    return [sys.executable, "-c", "from megasam_server.cli import main; main()"]
