"""Change of axes, tested with points whose place is known, not with a second formula."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_shared.coordinates import (
    COORDINATE_SYSTEMS,
    camera_angles,
    camera_angles_over_time,
    camera_from_angles,
    camera_from_opencv,
    camera_to_opencv,
    point_from_opencv,
    point_to_opencv,
    position_of,
)
from megasam_shared.errors import MegasamError
from megasam_shared.rotations import PanTiltRoll, angle_between

IDENTITY = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))


def direction(world_from_cam, vector):
    return tuple(
        sum(a * b for a, b in zip(row, vector, strict=False)) for row in world_from_cam[:3]
    )


def in_camera(world_from_cam, point):
    """The point in the camera's own axes: R^T (p - t)."""
    offset = [p - t for p, t in zip(point, position_of(world_from_cam), strict=True)]
    return tuple(sum(world_from_cam[i][j] * offset[i] for i in range(3)) for j in range(3))


@pytest.mark.parametrize(
    ("system", "looks_along", "up"),
    [
        ("opencv", (0, 0, 1), (0, -1, 0)),
        ("maya", (0, 0, -1), (0, 1, 0)),
        ("blender", (0, 1, 0), (0, 0, 1)),  # level, not straight down
    ],
)
def test_the_first_camera_is_level_and_looks_the_right_way(system, looks_along, up):
    pose = camera_from_opencv(IDENTITY, system)
    forward_axis, up_axis = (
        ((0, 0, 1), (0, -1, 0)) if system == "opencv" else ((0, 0, -1), (0, 1, 0))
    )
    assert direction(pose, forward_axis) == looks_along
    assert direction(pose, up_axis) == up


@pytest.mark.parametrize(
    ("system", "right", "below", "ahead"),
    [
        ("opencv", (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ("maya", (1, 0, 0), (0, -1, 0), (0, 0, -1)),
        ("blender", (1, 0, 0), (0, 0, -1), (0, 1, 0)),
    ],
)
def test_points_to_the_right_of_below_and_ahead_of_the_camera(system, right, below, ahead):
    assert point_from_opencv((1, 0, 0), system) == right
    assert point_from_opencv((0, 1, 0), system) == below
    assert point_from_opencv((0, 0, 1), system) == ahead


def test_an_opencv_camera_panned_right_by_10_degrees_has_pan_minus_10():
    c, s = math.cos(math.radians(10)), math.sin(math.radians(10))
    pose = ((c, 0, s, 2), (0, 1, 0, 3), (-s, 0, c, 4), (0, 0, 0, 1))  # looks towards +x: right
    for system in COORDINATE_SYSTEMS:
        angles = camera_angles(camera_from_opencv(pose, system), system)
        assert tuple(map(math.degrees, angles)) == pytest.approx((-10, 0, 0))
    assert position_of(camera_from_opencv(pose, "maya")) == (2, -3, -4)
    assert position_of(camera_from_opencv(pose, "blender")) == (2, 4, -3)


def test_blender_euler_angles_of_a_camera_without_roll():
    """Blender's mode XYZ, R = Rz Ry Rx, has (90 + tilt, 0, pan) for it."""
    pan, tilt = math.radians(25), math.radians(-15)
    pose = camera_from_angles(PanTiltRoll(pan, tilt, 0), (0, 0, 0), "blender")
    rx, rz = math.pi / 2 + tilt, pan
    expected = (
        (math.cos(rz), -math.sin(rz) * math.cos(rx), math.sin(rz) * math.sin(rx)),
        (math.sin(rz), math.cos(rz) * math.cos(rx), -math.cos(rz) * math.sin(rx)),
        (0, math.sin(rx), math.cos(rx)),
    )
    for row, expected_row in zip(pose[:3], expected, strict=True):
        assert row[:3] == pytest.approx(expected_row, abs=1e-12)


coordinate = st.floats(-100, 100)
points = st.tuples(coordinate, coordinate, coordinate)
angles = st.builds(PanTiltRoll, st.floats(-3.1, 3.1), st.floats(-1.57, 1.57), st.floats(-3.1, 3.1))
systems = st.sampled_from(COORDINATE_SYSTEMS)


@given(angles, points, points, systems)
def test_every_system_sees_a_point_at_the_same_place_in_the_picture(
    angles, position, point, system
):
    in_opencv = camera_from_angles(angles, position, "opencv")
    x, y, z = in_camera(in_opencv, point)
    there = in_camera(camera_from_opencv(in_opencv, system), point_from_opencv(point, system))
    expected = (x, y, z) if system == "opencv" else (x, -y, -z)
    assert there == pytest.approx(expected, abs=1e-9)


@given(angles, points, systems)
def test_there_and_back(angles, position, system):
    pose = camera_from_angles(angles, position, system)
    again = camera_from_opencv(camera_to_opencv(pose, system), system)
    for row, expected in zip(again, pose, strict=True):
        assert row == pytest.approx(expected, abs=1e-12)
    assert position_of(pose) == position
    assert point_from_opencv(point_to_opencv(position, system), system) == position
    assert camera_angles(pose, system) == pytest.approx(angles, abs=1e-9)


@given(angles, systems)
def test_angles_do_not_depend_on_the_system(angles, system):
    in_maya = camera_from_angles(angles, (0, 0, 0), "maya")
    in_system = camera_from_opencv(camera_to_opencv(in_maya, "maya"), system)
    assert angle_between(in_system, camera_from_angles(angles, (0, 0, 0), system)) < 1e-9


@pytest.mark.parametrize("system", COORDINATE_SYSTEMS)
def test_angles_over_time_do_not_jump(system):
    path = [PanTiltRoll(math.radians(11 * i), 0.2, 0.1) for i in range(50)]
    poses = [camera_from_angles(a, (0, 0, 0), system) for a in path]
    assert camera_angles_over_time(poses, system)[-1] == pytest.approx(path[-1])


def test_an_unknown_system_is_refused_with_the_known_ones():
    with pytest.raises(MegasamError, match="maya, blender, opencv") as caught:
        camera_from_opencv(IDENTITY, "houdini")
    assert caught.value.code == "unknown_coordinate_system"
