"""The server's config file: what can be set, what it is unless set, and how it is written down.

One table of settings reads the file, prints the documented default and takes what the command line
overrides.
"""

from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megasam_shared.config_folder import config_folder
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import DEFAULT_PORT, DEFAULT_PRIORITY, MAX_FILES

from megasam_server.media.picture_limits import PictureLimits
from megasam_server.service.options import ServerOptions, UploadLimits, WarmOptions

CONFIG_NAME = "server.toml"

_WIDTH = 96
_GB = 1e9
_PREFIXES = "media.prefixes"
_PREFIXES_OF = "media.prefixes_of"

_HEAD = """\
# The solver server's settings, each with its default. Take out what you do not change.
# 'megasam serve' reads this file from its --config, or as server.toml from the config folder
# (where 'megasam keys' keeps its files); what its command line says goes before what is here.
"""
_MAPS = """\
# How paths of clients are read here: what they call a folder = where it is on this machine. These
# folders are media roots for them. [media.prefixes] is for every client, [media.prefixes_of.NAME]
# for the one that the allow-list calls NAME.
[media.prefixes]
# "Z:/shows" = "/mnt/shows"

# [media.prefixes_of.anna]
# "/Volumes/shows" = "/mnt/shows"
"""


@dataclass(frozen=True)
class Setting:
    """One line of the file.

    Attributes:
        key: ``section.name``.
        default: its type is the setting's type; a list holds texts.
        about: what it is, for who runs a server.
        least: smallest number.
        choices: every text that is allowed; empty for any.
        is_path: one or several folders or files; relative ones are beside the config file.
    """

    key: str
    default: bool | int | float | str | list
    about: str
    least: float = 0
    choices: tuple[str, ...] = ()
    is_path: bool = False


_PICTURES = PictureLimits()
_UPLOADS = UploadLimits()
_WARM = WarmOptions()

SETTINGS: Mapping[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting(
            "server.bind",
            f"tcp://127.0.0.1:{DEFAULT_PORT}",
            "Where to listen. Anything but loopback needs security.curve.",
        ),
        Setting(
            "server.state",
            "",
            "Folder for jobs, uploads and results; empty: in the user's data folder. It needs room"
            " (see [storage]) and must be on a local disk, unless jobs run on a cluster.",
            is_path=True,
        ),
        Setting(
            "server.gpus",
            "auto",
            "GPUs to solve on, one worker each: numbers as nvidia-smi shows them ('0,1'), 'auto'"
            " for every GPU, else the CPU, or 'cpu'.",
        ),
        Setting(
            "server.executor",
            "local",
            "Where jobs run: 'local' is this machine, 'ray' a Ray cluster, see [ray].",
            choices=("local", "ray"),
        ),
        Setting(
            "server.keep_warm_minutes",
            round(_WARM.seconds / 60),
            "How long a worker that has networks loaded waits for the next job of the same client,"
            " and holds GPU memory meanwhile; 0: every job has a new process.",
        ),
        Setting("server.warm_jobs", _WARM.jobs, "Most jobs that one process solves.", least=1),
        Setting("server.job_timeout_minutes", 24 * 60, "Longest run of a job; 0 for no limit."),
        Setting(
            "server.drain_minutes",
            30,
            "How long a server that is told to stop (SIGTERM) lets running jobs reach the end of"
            " their stage. What has not ended by then is queued again.",
        ),
        Setting("queue.limit", ServerOptions.queue_limit, "Most jobs that wait.", least=1),
        Setting("queue.limit_per_client", 0, "Most jobs of one client that wait; 0 for no limit."),
        Setting(
            "queue.max_priority",
            ServerOptions.max_priority,
            "Highest priority that clients may give their jobs, up to 100. Clients take turns within"
            f" a priority; jobs have {DEFAULT_PRIORITY} unless their client says otherwise.",
            least=DEFAULT_PRIORITY,
        ),
        Setting(
            "security.curve",
            False,
            "Encrypt, and admit only the clients that 'megasam keys allow' has put on the list.",
        ),
        Setting(
            "security.keys",
            "",
            "Folder with server.key and allowed_clients; empty: the user's config folder.",
            is_path=True,
        ),
        Setting("security.shared_jobs", False, "Every client may see and stop the jobs of all."),
        Setting(
            "security.worker_environment",
            [],
            "Names of further environment variables that workers get. They get what programs and"
            " GPU libraries need, and nothing else.",
        ),
        Setting("media.roots", [], "Folders whose plates clients may name by path.", is_path=True),
        Setting(
            "media.checkpoint_roots",
            [],
            "Folders below which clients may choose checkpoints (the setting model_path).",
            is_path=True,
        ),
        Setting("uploads.files", MAX_FILES, "Most files of a job, plate and masks together.", 1),
        Setting("uploads.file_gb", round(_UPLOADS.file_bytes / _GB), "Largest single file.", 0.001),
        Setting(
            "uploads.job_gb",
            round(_UPLOADS.submission_bytes / _GB),
            "Most bytes of a job, plate and masks together.",
            least=0.001,
        ),
        Setting("pictures.side", _PICTURES.side, "Longest width or height, pixels.", 64),
        Setting("pictures.pixels", _PICTURES.pixels, "Most pixels of a frame.", 4096),
        Setting(
            "pictures.frame_bytes",
            _PICTURES.frame_bytes,
            "Most bytes of a decoded frame with all its channels.",
            4096,
        ),
        Setting("pictures.frames", _PICTURES.frames, "Most frames of a movie.", 1),
        Setting(
            "storage.keep_days",
            14,
            "How long unused uploads and results stay, counted while a server runs; 0 for ever.",
        ),
        Setting(
            "storage.client_quota_gb",
            0,
            "Most uploads and results that one client keeps; 0 for no limit.",
        ),
        Setting(
            "storage.limit_gb",
            0,
            "Most uploads, results and stage outputs of all clients; 0 for no limit.",
        ),
        Setting("storage.cache_gb", 50, "Most stage outputs that are kept for later solves."),
        Setting(
            "log.file",
            "",
            "File for the log; empty: standard error (systemd's journal).",
            is_path=True,
        ),
        Setting(
            "log.level",
            "info",
            "The least that is logged.",
            choices=("debug", "info", "warning", "error"),
        ),
        Setting("log.json", False, "One JSON object per line instead of text."),
        Setting("log.rotate_mb", 20, "Size at which the file is put aside and begun anew.", 0.1),
        Setting("log.rotations", 5, "How many files that were put aside are kept.", 1),
        Setting(
            "metrics.bind",
            "",
            "HOST:PORT on loopback where Prometheus reads numbers over HTTP, such as"
            " 127.0.0.1:9599; empty: nowhere.",
        ),
        Setting(
            "ray.address",
            "auto",
            "Address of the cluster's head node; 'auto' finds the one that this machine is in. The"
            " state folder must be there on every node under the same path.",
        ),
        Setting("ray.cpus", 2, "Cores that a job takes.", 0.1),
        Setting(
            "ray.gpus",
            "auto",
            "GPUs that a job takes, such as '1' or '0.5'; 'auto': one where the cluster has any.",
        ),
        Setting(
            "ray.jobs", 0, "Most jobs that run at once; 0: as many as the cluster has room for."
        ),
    )
}


@dataclass(frozen=True)
class ConfigValues:
    """What a file says: ``section.name`` to value, every setting present, and by client (``*`` for
    every client) the folders that prefixes of paths mean."""

    values: Mapping[str, Any]
    prefixes: Mapping[str, Mapping[str, str]]


def default_config_file() -> Path:
    """The file that is read when none is named, if it is there."""
    return config_folder() / CONFIG_NAME


def read_config(path: Path | None) -> ConfigValues:
    """The settings of a file; the defaults where it says nothing, or when there is none.

    Raises:
        MegasamError: ``config_unreadable``, ``config_malformed``, ``config_unknown``,
            ``config_wrong_type`` or ``config_out_of_range``, each naming the file and the setting.
    """
    defaults = {key: setting.default for key, setting in SETTINGS.items()}
    if path is None:
        return ConfigValues(defaults, {})
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MegasamError(
            "config_unreadable",
            f"The config file {path} cannot be read: {error}.",
            "Name one that exists, or write one with 'megasam serve --print-config'.",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise MegasamError(
            "config_malformed",
            f"The config file {path} is not TOML: {error}.",
            "Compare it with 'megasam serve --print-config'.",
        ) from None
    prefixes = _take_prefixes(content, path)
    given = {key: _check(key, value, path) for key, value in _flat(content, path)}
    return ConfigValues(defaults | given, prefixes)


def _check(key: str, value: Any, path: Path) -> Any:
    """The value of a setting, of the setting's own type; paths are absolute.

    Raises:
        MegasamError: ``config_unknown``, ``config_wrong_type`` or ``config_out_of_range``.
    """
    setting = SETTINGS.get(key)
    if setting is None:
        raise _unknown(key, path)
    if isinstance(setting.default, bool) or isinstance(value, bool):
        fits = isinstance(setting.default, bool) and isinstance(value, bool)
    elif isinstance(setting.default, int | float):
        # Counts are whole; sizes and times need not be.
        fits = isinstance(value, int) or (isinstance(value, float) and _may_be_broken(key))
    elif isinstance(setting.default, list):
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    else:
        fits = isinstance(value, str)
    if not fits:
        raise MegasamError(
            "config_wrong_type",
            f"{key} = {_shown(value)} in {path} must be {_words_for(setting)}.",
            f"Its default is {_toml(setting.default)}.",
        )
    if setting.choices and value not in setting.choices:
        raise _out_of_range(key, value, path, f"must be one of {', '.join(setting.choices)}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not setting.least <= value < float("inf"):
        raise _out_of_range(key, value, path, f"must be at least {setting.least:g}")
    if setting.is_path and value:
        return (
            [_beside(path, v) for v in value] if isinstance(value, list) else _beside(path, value)
        )
    return value


def documented_default() -> str:
    """A config file with every setting, its default and what it is."""
    lines, section = [_HEAD], ""
    for setting in SETTINGS.values():
        own_section, _, name = setting.key.partition(".")
        if own_section != section:
            section = own_section
            lines.append(f"[{section}]")
        about = setting.about
        if setting.choices:
            about += f" One of {', '.join(setting.choices)}."
        lines += textwrap.wrap(about, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{name} = {_toml(setting.default)}\n")
    return "\n".join([*lines, _MAPS])


def _flat(content: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    sections = {key.partition(".")[0] for key in SETTINGS}
    for section, table in content.items():
        if section not in sections or not isinstance(table, dict):
            raise _unknown(section, path)
        for name, value in table.items():
            yield f"{section}.{name}", value


def _take_prefixes(content: dict[str, Any], path: Path) -> dict[str, dict[str, str]]:
    """Take the path prefixes out of the content; their keys are the administrator's own."""
    media = content.get("media")
    if not isinstance(media, dict):
        return {}
    by_client = {"*": media.pop("prefixes", {})}
    named = media.pop("prefixes_of", {})
    for key, tables in ((_PREFIXES, by_client), (_PREFIXES_OF, named)):
        well_formed = isinstance(tables, dict) and all(
            isinstance(table, dict) and all(isinstance(folder, str) for folder in table.values())
            for table in tables.values()
        )
        if not well_formed:
            raise MegasamError(
                "config_wrong_type",
                f"{key} in {path} must be a table of prefixes and the folders that they mean.",
                'Write for example "Z:/shows" = "/mnt/shows" below [media.prefixes].',
            )
    return {
        client: {prefix: _beside(path, folder) for prefix, folder in table.items()}
        for client, table in (by_client | named).items()
        if table
    }


def _beside(config: Path, folder: str) -> str:
    return str(config.absolute().parent / Path(folder).expanduser())


def _unknown(key: str, path: Path) -> MegasamError:
    section, _, name = key.partition(".")
    known = [*SETTINGS, _PREFIXES, _PREFIXES_OF]
    sections = sorted({other.partition(".")[0] for other in known})
    if not name:
        near = difflib.get_close_matches(section, sections, 1, 0.3)
        hint = f"Did you mean [{near[0]}]?" if near else f"There are {', '.join(sections)}."
        return MegasamError("config_unknown", f"{path} has no use for [{section}].", hint)
    # The right name in the wrong section is the nearest of all.
    same_name = [other for other in known if other.partition(".")[2] == name]
    near = same_name or difflib.get_close_matches(key, known, 1, 0.3)
    hint = f"Did you mean {near[0]}?" if near else "See 'megasam serve --print-config'."
    return MegasamError("config_unknown", f"{key} in {path} is no setting.", hint)


def _out_of_range(key: str, value: Any, path: Path, must: str) -> MegasamError:
    return MegasamError(
        "config_out_of_range", f"{key} = {_shown(value)} in {path} {must}.", SETTINGS[key].about
    )


def _may_be_broken(key: str) -> bool:
    return key.endswith(("_gb", "_mb", "_minutes", "_days", ".cpus"))


def _words_for(setting: Setting) -> str:
    if isinstance(setting.default, bool):
        return "true or false"
    if isinstance(setting.default, int | float):
        return "a number" if _may_be_broken(setting.key) else "a whole number"
    return "a list of texts" if isinstance(setting.default, list) else "a text in quotes"


def _toml(value: bool | int | float | str | list) -> str:
    """A default in TOML's words, which for these types are JSON's."""
    return json.dumps(value, ensure_ascii=False)


def _shown(value: Any) -> str:
    return repr(value)[:80]
