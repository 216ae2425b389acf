"""Rendered pictures agree with their ground truth."""

import cv2
import numpy as np
import pytest
from megasam_server.geometry.trajectory import read_tum
from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import aim, ease, handheld, look_at
from megasam_server.raycast.clip import Take, render_clip, write_clip
from megasam_server.raycast.render import Camera, Film, render_frame
from megasam_server.raycast.scene import Person

WIDTH, HEIGHT, FPS = 240, 136, 24.0


def moving_camera(time):
    return look_at(
        np.array([-0.5 + 0.6 * time, -1.5, -2.5 + 0.3 * time]), np.array([0.2, -1.1, 3.0])
    )


def take(film, people=(), frames=4, move=None):
    scene = sets.furnished_room(4, width=6.0, depth=7.0, furniture=4)
    scene = type(scene)(scene.static, tuple(people), scene.light, scene.sky)
    camera = Camera(WIDTH, HEIGHT, move or handheld(moving_camera, 3, 0.01, 0.4), lambda t: 210.0)
    return Take("test", scene, camera, film, frames, FPS, seed=1)


@pytest.fixture(scope="module")
def clip():
    walker = Person(lambda t: np.array([-0.6 + 1.2 * t, 0.4]), seed=5)
    return render_clip(take(Film(noise=0.0), [walker]))


def warp_back(clip, a, b):
    """Frame b seen from frame a through a's depth: picture, and where both see the same point."""
    lens, poses = clip.cameras.intrinsics, clip.cameras.world_from_cam
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    z = clip.depth[a].astype(np.float64)
    rays = np.stack([(x - lens.cx[a]) / lens.fx[a], (y - lens.cy[a]) / lens.fy[a], np.ones_like(x)])
    world = poses[a][:3, :3] @ (rays * z).reshape(3, -1) + poses[a][:3, 3:]
    pixels, depth = clip.cameras.project(world.T, np.full(world.shape[1], b))
    maps = pixels.T.reshape(2, HEIGHT, WIDTH).astype(np.float32)
    depth_b = cv2.remap(clip.depth[b], maps[0], maps[1], cv2.INTER_NEAREST, borderValue=0)
    moving_b = cv2.remap(clip.moving[b].astype(np.uint8), maps[0], maps[1], cv2.INTER_NEAREST)
    same = np.abs(depth_b / depth.reshape(HEIGHT, WIDTH) - 1) < 0.01
    return cv2.remap(clip.rgb[b], maps[0], maps[1], cv2.INTER_LINEAR), same & (moving_b == 0)


def test_pictures_agree_through_depth_and_poses(clip):
    warped, same = warp_back(clip, 0, 3)
    static = same & ~clip.moving[0]
    assert static.mean() > 0.7
    difference = np.abs(warped.astype(int) - clip.rgb[0])[static]
    without_warp = np.abs(clip.rgb[3].astype(int) - clip.rgb[0])[static]
    assert np.median(difference) <= 2
    assert difference.mean() < 0.45 * without_warp.mean()


def test_no_offset_between_pictures_and_poses(clip):
    """The warped picture is registered with the true one to a small part of a pixel."""
    warped, same = warp_back(clip, 0, 3)
    static = same & ~clip.moving[0]
    static = cv2.erode(static.astype(np.uint8), np.ones((5, 5))) > 0
    a = cv2.cvtColor(clip.rgb[0], cv2.COLOR_RGB2GRAY).astype(np.float64)
    b = cv2.cvtColor(warped, cv2.COLOR_RGB2GRAY).astype(np.float64)
    gy, gx = np.gradient((a + b) / 2)
    system = np.stack([gx[static], gy[static]], axis=1)
    shift = np.linalg.lstsq(system, (a - b)[static], rcond=None)[0]
    assert np.abs(shift).max() < 0.03


def test_moving_pixels_do_not_agree(clip):
    warped, _ = warp_back(clip, 0, 3)
    difference = np.abs(warped.astype(int) - clip.rgb[0]).mean(axis=2)
    assert 0.02 < clip.moving[0].mean() < 0.3
    assert difference[clip.moving[0]].mean() > 3 * np.median(difference[~clip.moving[0]])


def test_the_same_arguments_give_the_same_bytes():
    film = Film(shutter=0.3, noise=2.0)
    first, second = take(film).frame(2), take(film).frame(2)
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.depth, second.depth)
    assert (first.rgb != take(film).frame(1).rgb).mean() > 0.5


def test_depth_is_exact_on_a_wall():
    scene = sets.furnished_room(4, width=6.0, depth=7.0, furniture=0)
    camera = Camera(WIDTH, HEIGHT, lambda t: aim(np.array([0.0, -1.4, 0.0]), 0, 0), lambda t: 400.0)
    frame = render_frame(scene, camera, Film(noise=0.0), 0, FPS, 0)
    assert np.median(frame.depth) == pytest.approx(3.5, abs=1e-5)
    assert frame.rgb.std() > 5


def test_motion_blur_smears_along_the_motion_only():
    def pan(time):
        return aim(np.array([0.0, -1.4, 0.0]), 200.0 * time, 0.0)

    sharp = take(Film(noise=0.0), move=pan).frame(1).rgb.astype(float)
    blurred = take(Film(noise=0.0, shutter=0.5), move=pan).frame(1).rgb.astype(float)
    across = np.abs(np.diff(sharp, axis=1)).mean() / np.abs(np.diff(blurred, axis=1)).mean()
    along = np.abs(np.diff(sharp, axis=0)).mean() / np.abs(np.diff(blurred, axis=0)).mean()
    assert across > 1.5
    assert across > 1.3 * along


def test_noise_and_exposure():
    quiet = take(Film(noise=0.0)).frame(0).rgb.astype(float)
    noisy = take(Film(noise=3.0)).frame(0).rgb.astype(float)
    assert (noisy - quiet).std() == pytest.approx(3.0, rel=0.1)
    dark = take(Film(noise=0.0, gain_at=lambda t: 0.5)).frame(0).rgb.astype(float)
    assert np.median(dark / quiet) == pytest.approx(0.5 ** (1 / 2.2), abs=0.02)


def test_far_detail_does_not_flicker():
    """A sub-pixel step of the camera changes a filtered picture little: no aliasing."""

    def step(time):
        return aim(np.array([0.0, -1.4, -3.0]), np.degrees(0.5 / 210.0) * time * FPS, 0.0)

    film = Film(noise=0.0)
    frames = [take(film, move=step).frame(i).rgb.astype(float) for i in (0, 2)]
    shifted = frames[0][:, 1:] - frames[1][:, :-1]  # two steps of half a pixel
    assert np.abs(shifted).mean() < 0.25 * np.abs(frames[0][:, 1:] - frames[0][:, :-1]).mean()


def test_camera_moves():
    assert ease(-1, 0, 2) == 0 and ease(1, 0, 2) == 0.5 and ease(3, 0, 2) == 1
    np.testing.assert_allclose(aim(np.zeros(3), 90, 0)[:3, 2], [1, 0, 0], atol=1e-12)
    assert aim(np.zeros(3), 0, 30)[1, 2] < 0  # up is negative y
    pose = look_at(np.array([1.0, -1.0, 0.0]), np.array([4.0, 0.0, 4.0]))
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], np.array([3, 1, 4]) / 26**0.5)
    shaken = np.stack(
        [handheld(lambda t: np.eye(4), 1, 0.01, 0.5)(t) for t in np.arange(0, 60, 0.1)]
    )
    assert shaken[:, :3, 3].std(axis=0) == pytest.approx([0.01] * 3, rel=0.35)


def test_written_clip_is_complete(tmp_path):
    small = take(Film(), frames=3)
    write_clip(small, tmp_path / "clip", depth_step=2)
    names = sorted(str(p.relative_to(tmp_path / "clip")) for p in tmp_path.rglob("*.*"))
    assert names == [
        "camera.json",
        "depth/000000.npy",
        "depth/000002.npy",
        *(f"frames/{i:06d}.png" for i in range(3)),
        *(f"masks/{i:06d}.png" for i in range(3)),
        "poses.txt",
    ]
    poses = read_tum(tmp_path / "clip" / "poses.txt")
    np.testing.assert_allclose(poses[2], small.cameras().world_from_cam[2], atol=1e-8)
    written = cv2.imread(str(tmp_path / "clip" / "frames" / "000001.png"))[..., ::-1]
    np.testing.assert_array_equal(written, small.frame(1).rgb)
