"""Which solve the artist means, from what is selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megasam_shared.errors import MegasamError

from megasam_maya.scene.record import GROUP

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost


def picked_solve(host: MayaHost) -> str:
    """Full path of the camera of the solve that is meant.

    That is the selected camera, else the one in whose group something is selected, else the only
    solved camera of the scene.

    Raises:
        MegasamError: ``no_solve_in_scene`` or ``no_solve_picked``.
    """
    groups = {camera: _group(host, camera) for camera in host.cameras()}
    solved = {camera: group for camera, group in groups.items() if group is not None}
    if not solved:
        raise MegasamError(
            "no_solve_in_scene",
            "There is no solved camera in this scene.",
            "Apply a solve first.",
        )
    selected = host.selected_camera()
    if selected in solved:
        return selected
    selection = host.selection()
    meant = [
        camera
        for camera, group in solved.items()
        if any(name == group or name.startswith(f"{group}|") for name in selection)
    ]
    candidates = meant or list(solved)
    if len(candidates) > 1:
        raise MegasamError(
            "no_solve_picked",
            f"The scene holds {len(solved)} solved cameras.",
            "Select the camera of one of them as well.",
        )
    return candidates[0]


def _group(host: MayaHost, camera: str) -> str | None:
    shape = host.shape(camera, "camera")
    return host.linked(shape, GROUP) if shape else None
