"""``megasam farm``: many shots on a render farm, described in the farms' own language.

An Open Job Description template (https://github.com/OpenJobDescription, version 2023-09) runs
``megasam solve`` once for each shot, wherever the farm has room.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from megasam_shared.errors import MegasamError
from megasam_shared.file_names import safe_name
from megasam_shared.plate_files import PlateFiles, find_plate_files
from megasam_shared.settings import FIELDS, SolveSettings

from megasam_server.cli.settings_options import settings_arguments, with_settings_options

# Of the specification: values of a task parameter, characters of each.
_MOST_SHOTS = 1024
_LONGEST_PATH = 1024
_NOTIFY_SECONDS = 30

app = typer.Typer(help="Solve many shots on a render farm.", no_args_is_help=True)


@dataclass(frozen=True)
class Shot:
    """One task of the farm."""

    name: str
    plate: Path
    files: PlateFiles


@app.callback()
def farm() -> None: ...


@with_settings_options
def template(
    plates: Annotated[
        list[Path],
        typer.Argument(
            metavar="PLATE...", help="A plate per shot, each named as for 'megasam solve'."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the template there; default: standard output."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a job bundle for Deadline Cloud: the template, and which files it needs.",
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --bundle: where the results go, a folder for each shot."
        ),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Ask for machines with a GPU.")] = False,
    hours: Annotated[
        float, typer.Option(metavar="HOURS", min=0.01, help="Longest solve of a shot.")
    ] = 24,
    *,
    settings: SolveSettings,
) -> None:
    """Write an Open Job Description template with a task for each shot.

    Its parameters are Results (the folder for all shots), Preset, Engine and Megasam (the command
    on the farm's machines). Run it here with: openjd run FILE --step Solve -p Results=DIR
    """
    if out is not None and bundle is not None:
        raise MegasamError(
            "setting_conflict", "--out and --bundle are two ways to write it.", "Give one of them."
        )
    shots = find_shots(plates, settings)
    text = _as_json(job_template(shots, settings, gpu, hours))
    if bundle is not None:
        _write(bundle / "template.json", text)
        _write(bundle / "asset_references.json", _as_json(_asset_references(shots, results)))
        if results is not None:
            values = [{"name": "Results", "value": str(results.absolute())}]
            _write(bundle / "parameter_values.json", _as_json({"parameterValues": values}))
    elif out is not None:
        _write(out, text)
    else:
        print(text, end="")


app.command()(template)


def find_shots(plates: Sequence[Path], settings: SolveSettings) -> list[Shot]:
    """The plates with a name for each: the plate's own, with those of folders above it where two
    would be the same.

    Raises:
        MegasamError: ``too_many_shots``, ``shot_twice``, ``path_not_usable``, or what is wrong with
            a plate.
    """
    if len(plates) > _MOST_SHOTS:
        raise MegasamError(
            "too_many_shots",
            f"These are {len(plates)} plates; a job has at most {_MOST_SHOTS} tasks of a step.",
            "Write several templates.",
        )
    paths = [Path(os.path.abspath(plate)) for plate in plates]
    files = [find_plate_files(path, None, settings) for path in paths]
    for path, count in Counter(paths).items():
        if count > 1:
            raise MegasamError("shot_twice", f"{path} is named {count} times.", "Name it once.")
        if "{{" in str(path) or len(str(path)) > _LONGEST_PATH:
            raise MegasamError(
                "path_not_usable",
                f"{str(path)[:200]} cannot stand in a template: it contains '{{{{' or is longer"
                f" than {_LONGEST_PATH} characters.",
                "Rename it.",
            )
    names = _names(paths, [found.name for found in files])
    return [Shot(*parts) for parts in zip(names, paths, files, strict=True)]


def job_template(
    shots: Sequence[Shot], settings: SolveSettings, gpu: bool, hours: float
) -> dict[str, Any]:
    """The template as a map of JSON types.

    Args:
        settings: of every shot; preset and engine are the defaults of the job's parameters.
        gpu: ask for machines with a GPU.
        hours: longest solve of a shot.
    """
    solve = [
        *("solve", "{{Task.Param.Plate}}", "--out", "{{Param.Results}}/{{Task.Param.Shot}}"),
        *("--openjd", "--preset", "{{Param.Preset}}", "--engine", "{{Param.Engine}}"),
        *settings_arguments(settings, without=("quality_preset", "engine")),
    ]
    step: dict[str, Any] = {
        "name": "Solve",
        "parameterSpace": {
            "taskParameterDefinitions": [
                {"name": "Shot", "type": "STRING", "range": [shot.name for shot in shots]},
                {"name": "Plate", "type": "PATH", "range": [str(shot.plate) for shot in shots]},
            ],
            # The first shot with the first plate, the second with the second.
            "combination": "(Shot, Plate)",
        },
        "script": {
            "actions": {
                "onRun": {
                    "command": "{{Param.Megasam}}",
                    "args": solve,
                    "timeout": max(1, round(hours * 3600)),
                    "cancelation": {
                        "mode": "NOTIFY_THEN_TERMINATE",
                        "notifyPeriodInSeconds": _NOTIFY_SECONDS,
                    },
                }
            }
        },
    }
    if gpu:
        step["hostRequirements"] = {"amounts": [{"name": "amount.worker.gpu", "min": 1}]}
    return {
        "specificationVersion": "jobtemplate-2023-09",
        "name": f"MegaSAM {shots[0].name if len(shots) == 1 else f'{len(shots)} shots'}"[:128],
        "description": "Solves the camera of each plate into a folder of its own.",
        "parameterDefinitions": [
            {
                "name": "Results",
                "type": "PATH",
                "objectType": "DIRECTORY",
                "dataFlow": "OUT",
                "description": "Folder for the results; each shot gets one in it.",
                "userInterface": {"control": "CHOOSE_DIRECTORY", "label": "Results"},
            },
            _choice("Preset", "quality_preset", settings.quality_preset),
            _choice("Engine", "engine", settings.engine),
            {
                "name": "Megasam",
                "type": "STRING",
                "default": "megasam",
                "description": "The command on the farm's machines.",
            },
        ],
        "steps": [step],
    }


def _choice(name: str, field: str, default: str) -> dict[str, Any]:
    spec = FIELDS[field]
    return {
        "name": name,
        "type": "STRING",
        "default": default,
        "allowedValues": list(spec.choices),
        "description": spec.doc,
        "userInterface": {"control": "DROPDOWN_LIST", "label": spec.label},
    }


def _asset_references(shots: Sequence[Shot], results: Path | None) -> dict[str, Any]:
    """What Deadline Cloud brings to its machines, and back from them."""
    files = [os.path.abspath(file) for shot in shots for file in shot.files.plate]
    directories = [] if results is None else [str(results.absolute())]
    return {
        "assetReferences": {
            "inputs": {"filenames": sorted(set(files)), "directories": []},
            "outputs": {"directories": directories},
            "referencedPaths": [],
        }
    }


def _names(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """The names, made different with the names of folders above where they are the same."""
    found, above = list(names), list(paths)
    while len(set(map(str.lower, found))) < len(found):
        counts = Counter(map(str.lower, found))
        for index, name in enumerate(found):
            if counts[name.lower()] > 1:
                above[index] = above[index].parent
                # At the root there is nothing more to tell them apart but their number.
                found[index] = safe_name(f"{above[index].name or index + 1}_{name}")
    return found


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise MegasamError(
            "file_not_writable", f"{path} cannot be written: {error.strerror}.", "Choose another."
        ) from None
    print(path)
