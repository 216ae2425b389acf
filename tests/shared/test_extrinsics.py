"""CAMERA_EXTRINSICS: what is written, and that nothing wrong gets past the check."""

import copy
import json
import math

import msgpack
import pytest
from megasam_shared.coordinates import COORDINATE_SYSTEMS, camera_from_angles, camera_to_opencv
from megasam_shared.errors import MegasamError
from megasam_shared.extrinsics import build_extrinsics, validate_extrinsics
from megasam_shared.rotations import PanTiltRoll

PATH = [PanTiltRoll(math.radians(100 + 3 * i), -0.1, 0.02 * i) for i in range(40)]


def solved(coordinate_system="maya", **changes):
    """A camera that pans left past 180 degrees while it moves to the right and zooms in."""
    in_maya = [camera_from_angles(a, (0.1 * i, 0, 0), "maya") for i, a in enumerate(PATH)]
    arguments = {
        "world_from_cam": [camera_to_opencv(pose, "maya") for pose in in_maya],
        "focal_px": [1000.0 + i for i in range(40)],
        "width": 1280,
        "height": 720,
        "frame_numbers": list(range(1001, 1041)),
        "fps": 23.976,
        "coordinate_system": coordinate_system,
        "source": "Classical",
        "solving_method": "classical: perspective",
        "status": "Solved 40 frames",
        "scale_is_metric": False,
    }
    return build_extrinsics(**(arguments | changes))


def test_every_entry_of_the_contract():
    extrinsics = solved()
    assert extrinsics["num_frames"] == 40
    assert (extrinsics["image_width"], extrinsics["image_height"]) == (1280, 720)
    assert extrinsics["source"] == "Classical"
    assert extrinsics["solving_method"] == "classical: perspective"
    assert extrinsics["status"] == "Solved 40 frames"
    assert extrinsics["coordinate_system"] == "maya"
    assert extrinsics["units"] == "radians"
    assert extrinsics["rotate_order"] == "zxy"
    assert extrinsics["angle_sign"] == "pan+ left, tilt+ up, roll+ ccw"
    assert extrinsics["has_translation"] is True
    assert extrinsics["scale_is_metric"] is False
    assert extrinsics["units_length"] == "arbitrary"
    assert extrinsics["focal_length_px_per_frame"] == [1000.0 + i for i in range(40)]
    assert extrinsics["focal_length_px"] == 1019.5
    assert extrinsics["principal_point"] == [640, 360]
    assert extrinsics["frame_numbers"][0] == 1001
    assert extrinsics["fps"] == 23.976
    assert extrinsics["usable"] is True

    last = extrinsics["rotations"][39]
    assert last["frame"] == 39
    assert (last["pan"], last["tilt"], last["roll"]) == pytest.approx(PATH[39])
    assert last["pan_deg"] == pytest.approx(217)  # unwrapped: not -143
    assert (last["tx"], last["ty"], last["tz"]) == pytest.approx((3.9, 0, 0))
    in_degrees = extrinsics["per_frame"][39]
    assert in_degrees["pan"] == last["pan_deg"]
    assert (in_degrees["tilt"], in_degrees["roll"]) == (last["tilt_deg"], last["roll_deg"])


@pytest.mark.parametrize("system", COORDINATE_SYSTEMS)
def test_it_survives_json_and_msgpack_in_every_system(system):
    extrinsics = solved(system)
    validate_extrinsics(json.loads(json.dumps(extrinsics, allow_nan=False)))
    assert msgpack.unpackb(msgpack.packb(extrinsics)) == extrinsics
    for found, true in zip(extrinsics["rotations"], PATH, strict=True):
        assert (found["pan"], found["tilt"], found["roll"]) == pytest.approx(true)


def test_the_picture_of_a_known_point_in_maya():
    """1 right, 1 up and 4 ahead, f = 800 px: 200 px right of and 200 px above the centre."""
    identity = [[float(i == j) for j in range(4)] for i in range(4)]
    extrinsics = solved(world_from_cam=[identity], focal_px=[800], frame_numbers=[7])
    camera = extrinsics["matrix_c2w"][0]
    point = (1, 1, -4)
    x, y, z = (sum(camera[i][j] * (point[i] - camera[i][3]) for i in range(3)) for j in range(3))
    cx, cy = extrinsics["principal_point"]
    focal = extrinsics["focal_length_px"]
    assert (cx + focal * x / -z, cy - focal * y / -z) == (840, 160)


def test_a_tripod_shot_has_no_translation():
    poses = [camera_to_opencv(camera_from_angles(a, (0, 0, 0), "maya"), "maya") for a in PATH]
    assert solved(world_from_cam=poses)["has_translation"] is False


def test_metric_lengths_are_metres_and_the_principal_point_is_kept():
    extrinsics = solved(scale_is_metric=True, principal_point=(600.5, 380.25))
    assert extrinsics["units_length"] == "metres"
    assert extrinsics["principal_point"] == [600.5, 380.25]


def test_identity_cameras_of_a_fallback_are_never_usable():
    extrinsics = solved(source="MegaSAM_fallback")
    assert extrinsics["usable"] is False
    extrinsics["usable"] = True
    with pytest.raises(MegasamError, match="usable"):
        validate_extrinsics(extrinsics)


def test_a_failed_solve_is_marked_as_not_usable():
    assert solved(usable=False)["usable"] is False


def test_numpy_arrays_are_taken_and_plain_types_come_out():
    np = pytest.importorskip("numpy")
    poses = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    extrinsics = solved(
        world_from_cam=poses,
        focal_px=np.full(3, 900, np.float32),
        frame_numbers=np.arange(3),
        width=np.int64(64),
        scale_is_metric=np.bool_(True),
    )
    assert msgpack.unpackb(msgpack.packb(extrinsics)) == extrinsics


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"focal_px": [1000.0] * 39}, "focal_length_px_per_frame has 39 entries, not 40"),
        ({"focal_px": [0.0] * 40}, "not above 0"),
        ({"focal_px": [math.nan] * 40}, "focal_length_px_per_frame"),
        ({"frame_numbers": [1001] * 40}, "1001 to 1001"),
        ({"fps": 0}, "fps"),
        ({"source": "SomethingElse"}, "source is 'SomethingElse', not MegaSAM or Classical"),
        ({"world_from_cam": [], "focal_px": [], "frame_numbers": []}, "num_frames is 0"),
        ({"world_from_cam": [[[math.nan] * 4] * 4] * 40}, "finite"),
        ({"principal_point": (math.inf, 0)}, "principal_point"),
    ],
)
def test_a_solve_that_is_not_fit_is_not_written(changes, words):
    with pytest.raises(MegasamError, match=words) as caught:
        solved(**changes)
    assert caught.value.code == "extrinsics_invalid"


MIRRORED = [[-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
DAMAGE = [
    # path to the value, new value (... removes it), what the error must say
    (["num_frames"], ..., "num_frames is missing"),
    (["num_frames"], 41, "has 40 entries, not 41"),
    (["num_frames"], True, "num_frames"),
    (["image_width"], 0, "image_width"),
    (["image_height"], 720.5, "image_height"),
    (["fps"], math.nan, "fps"),
    (["source"], "Identity", "source"),
    (["source"], ["MegaSAM"], "source"),
    (["coordinate_system"], "unity", "coordinate_system"),
    (["units"], "degrees", "units"),
    (["rotate_order"], "xyz", "rotate_order"),
    (["angle_sign"], "pan+ right", "angle_sign"),
    (["units_length"], "metres", "units_length"),
    (["has_translation"], 1, "has_translation"),
    (["status"], None, "status"),
    (["usable"], ..., "usable is missing"),
    (["scale_is_metric"], "no", "scale_is_metric"),
    (["focal_length_px"], 5.0, "focal_length_px"),
    (["focal_length_px"], "1000", "focal_length_px"),
    (["focal_length_px_per_frame", 3], -1.0, r"focal_length_px_per_frame\[3\]"),
    (["focal_length_px_per_frame", 3], 10**400, r"focal_length_px_per_frame\[3\]"),
    (["principal_point"], [1.0], "principal_point"),
    (["frame_numbers", 2], 1001.5, "frame_numbers"),
    (["frame_numbers", 2], 900, "frame_numbers"),
    (["frame_numbers"], "1001-1040", "frame_numbers"),
    (["matrix_c2w", 5], MIRRORED, "frame index 5 is not a rotation"),
    (["matrix_c2w", 5, 0, 0], math.inf, "frame index 5 .*finite"),
    (["matrix_c2w", 5, 0, 0], 1e200, "frame index 5 is not a rotation"),
    (["matrix_c2w", 5, 3, 0], 0.1, "last row"),
    (["matrix_c2w", 5], None, "not 4x4"),
    (["matrix_c2w", 5, 1], [0.0, 1.0], "not 4x4"),
    (["matrix_c2w", 5, 0, 3], 99.0, r"rotations\[5\] puts the camera elsewhere"),
    (["rotations", 7, "pan"], 0.0, r"rotations\[7\] turns the camera otherwise"),
    (["rotations", 7, "pan"], math.nan, r"rotations\[7\] has pan"),
    (["rotations", 7, "tx"], 0.0, r"rotations\[7\] puts the camera elsewhere"),
    (["rotations", 7, "tilt_deg"], 3.0, r"rotations\[7\] gives tilt"),
    (["rotations", 7, "roll_deg"], ..., r"rotations\[7\] gives roll"),
    (["rotations", 7, "frame"], 1008, r"rotations\[7\] has frame 1008, not 7"),
    (["rotations", 7], [], r"rotations\[7\] is a list"),
    (["per_frame", 9, "pan"], math.radians(127), r"per_frame\[9\] gives pan"),
    (["per_frame"], ..., "per_frame is missing"),
]


@pytest.mark.parametrize(("path", "value", "words"), DAMAGE)
def test_damage_is_named(path, value, words):
    extrinsics = copy.deepcopy(solved())
    parent = extrinsics
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    with pytest.raises(MegasamError, match=words) as caught:
        validate_extrinsics(extrinsics)
    assert caught.value.code == "extrinsics_invalid"
    assert caught.value.hint


def test_something_that_is_no_map_is_refused_and_unknown_keys_are_ignored():
    with pytest.raises(MegasamError, match="list"):
        validate_extrinsics([])
    validate_extrinsics(solved() | {"from_the_future": 1})
