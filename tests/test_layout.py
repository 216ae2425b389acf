"""The shape of the project: where things lie, and which way imports point."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "megasam_shared": ROOT / "shared" / "megasam_shared",
    "megasam_server": ROOT / "solver_server" / "megasam_server",
    "megasam_maya": ROOT / "maya_plugin" / "scripts" / "megasam_maya",
}
TOP_LEVEL = {
    *("maya_plugin", "solver_server", "shared", "mod", "tests", ".ci"),
    *("pyproject.toml", "install_maya.py", "README.md", "LICENSE", "NOTICE"),
    *(".gitignore", ".gitattributes"),
}
STAGES = {
    *("media", "mono_depth", "metric_depth", "tracking", "flow", "video_depth"),
    *("export", "raycast"),
}
# What stages receive and return: types and protocols that know nothing of the other stages' work.
AGREED_TYPES = {"pipeline.progress", "pipeline.solved_shot"}
# Which folders of megasam_server each of its folders may import from.
ALLOWED = {
    "geometry": {"geometry"},
    "models": {"geometry", "models"},
    # Stages are given their networks; only the pipeline and the command line look for the files.
    "checkpoints": {"models", "checkpoints"},
    # Validation runs the tracker; the curves are drawn as the reports are.
    "training": {"geometry", "models", "training", "tracking", "export", "raycast"},
    **{stage: {"geometry", "models"} | STAGES for stage in STAGES},
    "pipeline": {"geometry", "models", "checkpoints", "pipeline"} | STAGES,
    "service": {"geometry", "pipeline", "media", "checkpoints", "service"},
    "cli": {"geometry", "checkpoints", "pipeline", "service", "cli"} | STAGES,
}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Dotted name and syntax tree of each module of a package."""
    folder = PACKAGES[package]
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.Module) -> set[str]:
    """Everything that a module imports, also inside functions; ``from a import b`` gives a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their direction"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def server_imports() -> Iterator[tuple[str, str, str]]:
    """Importing module, its folder, and what it imports, all relative to megasam_server."""
    for name, tree in modules("megasam_server"):
        module = name.removeprefix("megasam_server").removeprefix(".")
        for imported in imports(tree):
            if imported.startswith("megasam_server."):
                yield module, module.split(".")[0], imported.removeprefix("megasam_server.")


def is_agreed_type(imported: str) -> bool:
    return any(imported == t or imported.startswith(t + ".") for t in AGREED_TYPES)


@pytest.mark.parametrize("package", ["megasam_shared", "megasam_maya"])
def test_what_runs_inside_maya_needs_only_two_packages(package):
    allowed = {*sys.stdlib_module_names, "msgpack", "zmq", "megasam_shared", package}
    if package == "megasam_maya":
        # Maya brings these itself.
        allowed |= {"maya", "PySide6", "shiboken6"}
    wrong = {
        f"{name} imports {imported}"
        for name, tree in modules(package)
        for imported in imports(tree)
        if imported.split(".")[0] not in allowed
    }
    assert wrong == set()


def test_the_server_knows_nothing_of_maya():
    wrong = {
        f"{name} imports {imported}"
        for name, tree in modules("megasam_server")
        for imported in imports(tree)
        if imported.split(".")[0] in {"megasam_maya", "maya", "solver_server", "tests"}
    }
    assert wrong == set()


def test_every_folder_of_the_server_has_its_place_in_the_order():
    folders = {p.name for p in PACKAGES["megasam_server"].iterdir() if (p / "__init__.py").exists()}
    assert folders == set(ALLOWED)


def test_imports_point_from_the_command_line_down_to_geometry():
    wrong = {
        f"{module} imports {imported}"
        for module, folder, imported in server_imports()
        if folder
        and imported.split(".")[0] not in ALLOWED[folder]
        and not (folder in STAGES and is_agreed_type(imported))
    }
    assert wrong == set()


def test_stages_do_not_depend_on_each_other_in_a_circle():
    depends: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for _, folder, imported in server_imports():
        target = imported.split(".")[0]
        if folder in STAGES and target in STAGES and target != folder:
            depends[folder].add(target)
    TopologicalSorter(depends).prepare()
    assert depends["media"] == set(), "the plate comes first"


def test_the_top_level_is_fixed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert top <= TOP_LEVEL


def test_modules_are_named_for_what_they_do():
    wrong = {
        name
        for package in PACKAGES
        for name, _ in modules(package)
        if VAGUE_NAMES & {word for part in name.split(".") for word in part.split("_")}
    }
    assert wrong == set()


def test_the_server_package_can_be_imported_under_one_name_only():
    """``solver_server`` holds __main__.py and is no package: a second copy of the modules, and of
    their classes, would otherwise be one careless import away."""
    assert not (ROOT / "solver_server" / "__init__.py").exists()
