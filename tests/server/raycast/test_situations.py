"""The twelve situations are what their names say (cameras and coverage)."""

import numpy as np
import pytest
from megasam_server.geometry.trajectory import rotation_angles_deg
from megasam_server.raycast.render import moving_share
from megasam_server.raycast.situations import SITUATIONS, build_take, stream_situation


@pytest.fixture(scope="module")
def takes():
    return {name: build_take(name) for name in SITUATIONS}


def steps_deg(take):
    rotations = take.cameras().world_from_cam[:, :3, :3]
    return rotation_angles_deg(rotations[:-1], rotations[1:])


def places(take):
    return take.cameras().world_from_cam[:, :3, 3]


def coverage(take, step):
    times = np.arange(0, take.num_frames, step) / take.fps
    return np.array([moving_share(take.scene, take.camera, time) for time in times])


def test_there_are_twelve_of_the_agreed_size(takes):
    assert len(takes) == 12
    for name, take in takes.items():
        assert take.name == name
        size = (take.camera.width, take.camera.height)
        assert size == ((360, 640) if name == "portrait" else (640, 360))
        assert take.num_frames == 300 if name == "loop" else 60 <= take.num_frames <= 120


def test_focal_lengths_are_a_matchmovers(takes):
    for take in takes.values():
        focal = take.cameras().intrinsics.fx / 640
        assert focal.min() >= 0.7 and focal.max() <= 1.6
    zoom = takes["zoom"].cameras().intrinsics.fx
    assert zoom.max() / zoom.min() == pytest.approx(1.6, abs=0.01)


def test_no_clip_starts_at_the_identity(takes):
    for take in takes.values():
        assert not np.allclose(take.cameras().world_from_cam[0], np.eye(4), atol=0.01)


def test_dolly_goes_straight_forward(takes):
    path = places(takes["dolly"])
    assert np.ptp(path[:, 2]) > 3
    assert max(np.ptp(path[:, 0]), np.ptp(path[:, 1])) < 0.02


def test_tripod_stays_and_turns(takes):
    take = takes["tripod_pan_tilt"]
    assert np.ptp(places(take), axis=0).max() < 0.04
    assert steps_deg(take).sum() > 45
    assert SITUATIONS["tripod_pan_tilt"].rotation_only


def test_tiny_baseline_is_tiny(takes):
    assert 0.01 < np.ptp(places(takes["tiny_baseline"]), axis=0).max() < 0.08


def test_whip_pan_is_fast_but_overlaps(takes):
    take = takes["whip_pan"]
    field = 2 * np.degrees(np.arctan(320 / take.cameras().intrinsics.fx[0]))
    assert steps_deg(take).max() > 7
    assert steps_deg(take).max() < 0.5 * field
    assert take.film.shutter >= 0.4


def test_loop_comes_back(takes):
    poses = takes["loop"].cameras().world_from_cam
    back = np.linalg.norm(poses[270:, :3, 3] - poses[0, :3, 3], axis=1)
    assert back.min() < 0.15
    nearest = 270 + int(np.argmin(back))
    turned = rotation_angles_deg(poses[[nearest], :3, :3], poses[[0], :3, :3])
    assert turned[0] < 15
    assert np.linalg.norm(poses[140, :3, 3] - poses[0, :3, 3]) > 2


def test_movers_cover_what_is_promised(takes):
    big = coverage(takes["big_mover"], 3)
    assert 0.38 <= big.max() <= 0.47
    assert big[0] == 0 and big[-1] == 0
    two = coverage(takes["walk_two_movers"], 12)
    assert (two > 0.03).all() and two.max() < 0.25
    assert (coverage(takes["portrait"], 15) > 0.01).all()
    for name in set(takes) - {"big_mover", "walk_two_movers", "portrait"}:
        assert not takes[name].scene.people


def test_streaming_renders_one_frame_at_a_time():
    stream = stream_situation("low_texture")
    frame = next(stream)
    assert frame.rgb.shape == (360, 640, 3) and frame.rgb.dtype == np.uint8
    assert (frame.depth > 0).all()
    assert not frame.moving.any()


def test_the_sky_has_no_depth():
    frame = build_take("outdoor_truck").frame(0)
    sky = frame.depth == 0
    assert 0.05 < sky.mean() < 0.5
    red, blue = frame.rgb[..., 0][sky].mean(), frame.rgb[..., 2][sky].mean()
    assert blue > red
