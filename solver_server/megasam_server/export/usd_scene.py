"""The solve as a USD stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pxr import Gf, Usd, UsdGeom, Vt

from megasam_server.export.scene import Scene, varies


def write_usd(path: Path, scene: Scene) -> None:
    """Write ``scene`` as ``.usda``: ``/<name>_solve/camera`` and ``/<name>_solve/points``.

    Y-up; centimetres, because Maya's importer scales focal lengths and apertures by the stage's
    metersPerUnit unless it is 0.01. Apertures and offsets are in mm, as other programs take them.
    """
    # Built in memory: a layer of this path may still be open from an earlier write.
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 0.01)
    stage.SetTimeCodesPerSecond(float(scene.fps))
    stage.SetFramesPerSecond(float(scene.fps))
    stage.SetStartTimeCode(scene.frame_numbers[0])
    stage.SetEndTimeCode(scene.frame_numbers[-1])

    group = UsdGeom.Xform.Define(stage, f"/{scene.name}_solve")
    group.GetPrim().SetDocumentation(scene.notes)
    stage.SetDefaultPrim(group.GetPrim())
    _add_camera(stage, f"{group.GetPath()}/camera", scene)
    _add_points(stage, f"{group.GetPath()}/points", scene)
    path.write_text(stage.GetRootLayer().ExportToString(), encoding="utf-8", newline="\n")


def _add_camera(stage: Usd.Stage, path: str, scene: Scene) -> None:
    camera = UsdGeom.Camera.Define(stage, path)
    camera.CreateProjectionAttr(UsdGeom.Tokens.perspective)
    camera.CreateHorizontalApertureAttr(scene.film_width_mm)
    camera.CreateVerticalApertureAttr(scene.film_height_mm)
    camera.CreateClippingRangeAttr(Gf.Vec2f(scene.near_clip, scene.far_clip))
    transform = camera.AddTransformOp()
    for frame, pose in zip(scene.frame_numbers, scene.world_from_cam, strict=True):
        # USD multiplies row vectors: the transpose of our matrices.
        transform.Set(Gf.Matrix4d(pose.T.tolist()), frame)
    for attribute, values in (
        (camera.CreateFocalLengthAttr(), scene.focal_mm),
        (camera.CreateHorizontalApertureOffsetAttr(), scene.film_offset_mm[:, 0]),
        (camera.CreateVerticalApertureOffsetAttr(), scene.film_offset_mm[:, 1]),
    ):
        _set(attribute, scene.frame_numbers, values)


def _set(attribute: Usd.Attribute, frame_numbers: list[int], values: np.ndarray) -> None:
    if not varies(values):
        attribute.Set(float(values[0]))
        return
    for frame, value in zip(frame_numbers, values.tolist(), strict=True):
        attribute.Set(value, frame)


def _add_points(stage: Usd.Stage, path: str, scene: Scene) -> None:
    points = UsdGeom.Points.Define(stage, path)
    positions = scene.points.astype(np.float32)
    points.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(positions))
    points.CreateWidthsAttr(Vt.FloatArray([scene.locator_size]))
    points.SetWidthsInterpolation(UsdGeom.Tokens.constant)
    colours = points.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
    colours.Set(Vt.Vec3fArray.FromNumpy(scene.rgb.astype(np.float32) / 255))
    if len(positions):
        extent = Vt.Vec3fArray([Gf.Vec3f(*corner) for corner in _bounds(positions)])
        points.CreateExtentAttr(extent)


def _bounds(positions: np.ndarray) -> list[list[float]]:
    return [positions.min(axis=0).tolist(), positions.max(axis=0).tolist()]
