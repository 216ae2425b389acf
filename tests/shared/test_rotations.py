"""Pan, tilt, roll and quaternions against known directions, computed vectors and round trips."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_shared.rotations import (
    PanTiltRoll,
    angle_between,
    pan_tilt_roll_from_rotation,
    quaternion_xyzw_from_rotation,
    rotation_error,
    rotation_from_pan_tilt_roll,
    rotation_from_quaternion_xyzw,
    unwrapped_pan_tilt_roll,
)


def from_degrees(pan, tilt, roll):
    return PanTiltRoll(*map(math.radians, (pan, tilt, roll)))


def in_degrees(angles):
    return tuple(map(math.degrees, angles))


def turned(rotation, vector):
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in rotation)


def rz_ry_rx(pan, tilt, roll):
    """Maya's rotate order xyz, R = Rz(roll) Ry(pan) Rx(tilt), by chaining one-axis rotations."""
    about_x = rotation_from_pan_tilt_roll(from_degrees(0, tilt, 0))
    about_y = rotation_from_pan_tilt_roll(from_degrees(pan, 0, 0))
    about_z = rotation_from_pan_tilt_roll(from_degrees(0, 0, roll))
    columns = [turned(about_z, turned(about_y, c)) for c in zip(*about_x, strict=True)]
    return tuple(zip(*columns, strict=True))


FORWARD, UP = (0, 0, -1), (0, 1, 0)


@pytest.mark.parametrize(
    ("angles", "axis", "direction"),
    [
        ((10, 0, 0), FORWARD, (-0.174, 0, -0.985)),  # + pan looks left
        ((0, 10, 0), FORWARD, (0, 0.174, -0.985)),  # + tilt looks up
        ((0, 0, 10), UP, (-0.174, 0.985, 0)),  # + roll turns the up vector towards -X
        ((0, 0, 10), FORWARD, (0, 0, -1)),
        ((90, 30, 0), FORWARD, (-0.866, 0.5, 0)),  # tilt is about the panned camera's own X
    ],
)
def test_positive_angles_turn_the_camera_as_documented(angles, axis, direction):
    rotation = rotation_from_pan_tilt_roll(from_degrees(*angles))
    assert turned(rotation, axis) == pytest.approx(direction, abs=5e-4)


@pytest.mark.parametrize(
    ("true", "in_order_xyz", "error_if_mistaken"),
    [
        ((30, 0, 0), (30, 0, 0), 0),
        ((0, 20, 0), (0, 20, 0), 0),
        ((30, 20, 0), (30, 20, 0), 0),
        ((30, 20, 10), (26.166, 24.945, 10.475), 6.38),
        ((170, 10, 0), (10, -170, 180), 28.2),
        ((90, 30, 5), (85, 90, 60), 82.8),
    ],
)
def test_golden_vectors(true, in_order_xyz, error_if_mistaken):
    """The same rotation in order zxy (ours) and xyz, and what mistaking one for the other costs."""
    rotation = rotation_from_pan_tilt_roll(from_degrees(*true))
    assert in_degrees(pan_tilt_roll_from_rotation(rotation)) == pytest.approx(true, abs=1e-9)
    assert math.degrees(angle_between(rotation, rz_ry_rx(*in_order_xyz))) < 2e-3
    mistaken = rotation_from_pan_tilt_roll(from_degrees(*in_order_xyz))
    error = math.degrees(angle_between(rotation, mistaken))
    assert error == pytest.approx(error_if_mistaken, abs=0.05)


full_turn = st.floats(-math.pi, math.pi)
any_angles = st.builds(PanTiltRoll, full_turn, full_turn, full_turn)
near_a_pole = st.builds(
    PanTiltRoll,
    full_turn,
    st.builds(
        lambda sign, exponent, side: sign * math.pi / 2 + side * 10.0**exponent,
        st.sampled_from([-1, 1]),
        st.floats(-17, -1),
        st.sampled_from([-1, 0, 1]),
    ),
    full_turn,
)


@given(any_angles | near_a_pole, st.none() | any_angles)
def test_angles_reproduce_the_rotation_also_straight_up_and_down(angles, previous):
    rotation = rotation_from_pan_tilt_roll(angles)
    found = pan_tilt_roll_from_rotation(rotation, previous)
    assert angle_between(rotation_from_pan_tilt_roll(found), rotation) < 2e-8
    if previous is None:
        assert abs(found.tilt) <= math.pi / 2 + 1e-8
        assert abs(found.pan) <= math.pi and abs(found.roll) <= math.pi
    else:
        # No equivalent angles lie nearer: at most half a turn away, and not on the far branch.
        assert all(abs(a - b) <= math.pi + 1e-9 for a, b in zip(found, previous, strict=True))
        other = (found.pan + math.pi, math.pi - found.tilt, found.roll + math.pi)
        shifts = [math.remainder(a - b, math.tau) for a, b in zip(other, previous, strict=True)]
        assert math.dist(found, previous) <= math.hypot(*shifts) + 1e-9


@given(any_angles)
def test_the_angles_themselves_come_back_when_the_frame_before_was_near(angles):
    if abs(math.cos(angles.tilt)) < 1e-3:
        return
    before = PanTiltRoll(*(a + 0.1 for a in angles))
    found = pan_tilt_roll_from_rotation(rotation_from_pan_tilt_roll(angles), before)
    assert found == pytest.approx(angles, abs=1e-9)


def test_two_turns_of_pan_are_unwrapped_without_a_jump():
    path = [from_degrees(7 * i, 10, 3) for i in range(104)]
    unwrapped = unwrapped_pan_tilt_roll(map(rotation_from_pan_tilt_roll, path))
    assert in_degrees(unwrapped[-1]) == pytest.approx((721, 10, 3))


def test_looking_over_the_top_keeps_tilting_instead_of_flipping_pan_and_roll():
    """Tilt 80 to 100 degrees through the pole, the pole itself among the frames."""
    path = [from_degrees(25, 80 + 0.5 * i, -4) for i in range(41)]
    unwrapped = unwrapped_pan_tilt_roll(map(rotation_from_pan_tilt_roll, path))
    for found, true in zip(unwrapped, path, strict=True):
        assert in_degrees(found) == pytest.approx(in_degrees(true), abs=1e-6)


def test_a_top_shot_that_turns_in_place_rolls_smoothly():
    """Straight down, pan - roll alone is determined: pan must rest and roll must do the turning."""
    path = [PanTiltRoll(0.0, -math.pi / 2, math.radians(12 * i)) for i in range(40)]
    unwrapped = unwrapped_pan_tilt_roll(map(rotation_from_pan_tilt_roll, path))
    for before, after in zip(unwrapped, unwrapped[1:], strict=False):
        assert after.pan == pytest.approx(before.pan, abs=1e-9)
        assert math.degrees(after.roll - before.roll) == pytest.approx(12, abs=1e-6)


@pytest.mark.parametrize(
    ("angles", "xyzw"),
    [
        ((0, 0, 0), (0, 0, 0, 1)),
        ((90, 0, 0), (0, math.sqrt(0.5), 0, math.sqrt(0.5))),
        ((0, 90, 0), (math.sqrt(0.5), 0, 0, math.sqrt(0.5))),
        ((0, 0, 90), (0, 0, math.sqrt(0.5), math.sqrt(0.5))),
        ((180, 0, 0), (0, 1, 0, 0)),
        ((0, 0, 180), (0, 0, 1, 0)),
    ],
)
def test_quaternions_of_known_turns(angles, xyzw):
    found = quaternion_xyzw_from_rotation(rotation_from_pan_tilt_roll(from_degrees(*angles)))
    if xyzw[3] == 0:  # both signs are the same half turn
        found = tuple(abs(c) for c in found)
    assert found == pytest.approx(xyzw, abs=1e-12)


@given(any_angles | near_a_pole)
def test_quaternion_round_trip(angles):
    rotation = rotation_from_pan_tilt_roll(angles)
    quaternion = quaternion_xyzw_from_rotation(rotation)
    assert math.hypot(*quaternion) == pytest.approx(1, abs=1e-12)
    assert quaternion[3] >= 0
    assert angle_between(rotation_from_quaternion_xyzw(quaternion), rotation) < 1e-7
    doubled = [2 * c for c in quaternion]
    assert angle_between(rotation_from_quaternion_xyzw(doubled), rotation) < 1e-7


def test_rotation_error_sees_scale_shear_and_mirrors():
    assert rotation_error(rotation_from_pan_tilt_roll(from_degrees(10, 20, 30))) < 1e-15
    assert rotation_error([[1.001, 0, 0], [0, 1, 0], [0, 0, 1]]) == pytest.approx(2e-3, rel=0.01)
    assert rotation_error([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]]) == pytest.approx(0.01)
    assert rotation_error([[1, 0, 0], [0, 1, 0], [0, 0, -1]]) == 1


def test_angle_between_is_precise_for_small_and_for_half_turns():
    level = rotation_from_pan_tilt_roll(PanTiltRoll(0, 0, 0))
    for degrees in (1e-7, 1, 90, 180):
        other = rotation_from_pan_tilt_roll(from_degrees(degrees, 0, 0))
        assert math.degrees(angle_between(level, other)) == pytest.approx(degrees, rel=1e-6)
