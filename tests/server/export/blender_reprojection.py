"""Runs inside Blender's Python: import a scene file and say where its camera sees its points.

    python blender_reprojection.py camera.usda request.json answer.json

``request.json``: width, height, fps numerator and denominator, frames. ``answer.json``: pixels of
the imported points (in the file's order) per frame, from the top left corner, by Blender's own
``world_to_camera_view``.
"""

import json
import sys
from pathlib import Path

import bpy
from bpy_extras.object_utils import world_to_camera_view


def import_scene(path: str) -> None:
    if path.endswith(".usda"):
        bpy.ops.wm.usd_import(filepath=path)
    elif path.endswith(".abc"):
        bpy.ops.wm.alembic_import(filepath=path, as_background_job=False)
    else:
        bpy.ops.wm.fbx_import(filepath=path, anim_offset=0.0)


def imported_points() -> list:
    clouds = [o for o in bpy.data.objects if o.type == "POINTCLOUD"]
    if clouds:
        (cloud,) = clouds
        positions = cloud.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.attributes[
            "position"
        ]
        return [cloud.matrix_world @ element.vector for element in positions.data]
    nulls = [o for o in bpy.data.objects if o.type == "EMPTY" and "_point_" in o.name]
    return [o.matrix_world.translation.copy() for o in sorted(nulls, key=lambda o: o.name)]


def main(path: str, request_path: str, answer_path: str) -> None:
    request = json.loads(Path(request_path).read_text())
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = request["width"], request["height"]
    scene.render.resolution_percentage = 100
    scene.render.fps, scene.render.fps_base = request["fps"], request["fps_base"]
    import_scene(path)
    (camera,) = [o for o in bpy.data.objects if o.type == "CAMERA"]
    bpy.context.view_layer.update()
    points = imported_points()
    pixels = []
    for frame in request["frames"]:
        scene.frame_set(int(frame), subframe=frame - int(frame))
        evaluated = camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
        seen = [world_to_camera_view(scene, evaluated, point) for point in points]
        width, height = request["width"], request["height"]
        pixels.append([[width * v.x, height * (1 - v.y)] for v in seen])
    Path(answer_path).write_text(json.dumps({"pixels": pixels, "blender": bpy.app.version_string}))


if __name__ == "__main__":
    main(*sys.argv[1:])
