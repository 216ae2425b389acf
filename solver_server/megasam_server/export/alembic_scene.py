"""The solve as an Alembic archive."""

from __future__ import annotations

import os
from pathlib import Path

import imath
import numpy as np
from alembic3d import Abc, AbcCoreAbstract, AbcGeom

from megasam_server.export.scene import Scene

MM_PER_CM = 10.0


def write_alembic(path: Path, scene: Scene) -> None:
    """Write ``scene`` as ``.abc``: ``/<name>_solve/<name>_cam`` and ``/<name>_solve/points``.

    Y-up, centimetres; apertures and film offsets in cm and focal length in mm, as the format
    defines them. Sample times are frame number / fps.

    Raises:
        OSError: the disk is full.
    """
    _require_room(path, scene)
    archive = Abc.OArchive(str(path), True)
    # By its index: handing over the object itself crashes PyAlembic.
    times = archive.addTimeSampling(_time_sampling(scene))
    group = AbcGeom.OXform(archive.getTop(), f"{scene.name}_solve")

    transform = AbcGeom.OXform(group, f"{scene.name}_cam", times)
    camera = AbcGeom.OCamera(transform, f"{scene.name}_camShape", times)
    for index in range(len(scene.frame_numbers)):
        pose = AbcGeom.XformSample()
        # Alembic multiplies row vectors: the transpose of our matrices.
        pose.setMatrix(imath.M44d(*scene.world_from_cam[index].T.ravel().tolist()))
        transform.getSchema().set(pose)
        camera.getSchema().set(_camera_sample(scene, index))
    _add_points(group, scene)


def _require_room(path: Path, scene: Scene) -> None:
    """Fail while Python can: the library ends the whole process when the disk fills under it.

    Really written, because a quota does not show in the free space; random, because some file
    systems keep no room for zeros. The archive then takes the place of these bytes.
    """
    at_most = 65_536 + 1024 * len(scene.frame_numbers) + 64 * len(scene.points)
    path.write_bytes(os.urandom(at_most))


def _time_sampling(scene: Scene) -> AbcCoreAbstract.TimeSampling:
    """Uniform when the plate has every frame, else one time per frame."""
    numbers = scene.frame_numbers
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return AbcCoreAbstract.TimeSampling(float(1 / scene.fps), float(numbers[0] / scene.fps))
    times = AbcCoreAbstract.TimeVector()
    times[:] = [float(number / scene.fps) for number in numbers]
    acyclic = AbcCoreAbstract.TimeSamplingType(AbcCoreAbstract.AcyclicFlag.kAcyclic)
    return AbcCoreAbstract.TimeSampling(acyclic, times)


def _camera_sample(scene: Scene, index: int) -> AbcGeom.CameraSample:
    sample = AbcGeom.CameraSample()
    sample.setHorizontalAperture(scene.film_width_mm / MM_PER_CM)
    sample.setVerticalAperture(scene.film_height_mm / MM_PER_CM)
    sample.setHorizontalFilmOffset(float(scene.film_offset_mm[index, 0]) / MM_PER_CM)
    sample.setVerticalFilmOffset(float(scene.film_offset_mm[index, 1]) / MM_PER_CM)
    sample.setFocalLength(float(scene.focal_mm[index]))
    sample.setNearClippingPlane(scene.near_clip)
    sample.setFarClippingPlane(scene.far_clip)
    return sample


def _add_points(group: AbcGeom.OXform, scene: Scene) -> None:
    count = len(scene.points)
    if not count:
        return
    positions = imath.V3fArray(count)
    ids = imath.IntArray(count)
    colours = imath.C3fArray(count)
    for index, (xyz, rgb) in enumerate(
        zip(scene.points.tolist(), (scene.rgb / np.float64(255)).tolist(), strict=True)
    ):
        positions[index] = imath.V3f(*xyz)
        ids[index] = index
        colours[index] = imath.Color3f(*rgb)
    schema = AbcGeom.OPoints(group, "points").getSchema()
    schema.set(AbcGeom.OPointsSchemaSample(positions, ids))
    colour_parameter = AbcGeom.OC3fGeomParam(
        schema.getArbGeomParams(), "Cs", False, AbcGeom.GeometryScope.kVertexScope, 1
    )
    colour_parameter.set(AbcGeom.OC3fGeomParamSample(colours, AbcGeom.GeometryScope.kVertexScope))
