"""The demo clip is what the demo says it is."""

import numpy as np
from megasam_server.raycast.clip import render_clip
from megasam_server.raycast.demo_scene import FRAMES, demo_take
from megasam_server.raycast.render import moving_share


def test_the_person_covers_about_a_tenth_of_the_picture():
    take = demo_take()
    shares = [moving_share(take.scene, take.camera, i / take.fps) for i in range(0, FRAMES, 5)]
    assert 0.08 < np.mean(shares) < 0.12
    assert min(shares) > 0.05


def test_there_is_parallax_and_a_real_hand():
    path = demo_take().cameras().world_from_cam[:, :3, 3]
    assert np.linalg.norm(path[-1] - path[0]) > 1.0
    assert np.abs(np.diff(path, n=3, axis=0)).max() > 1e-4


def test_threads_do_not_change_the_bytes():
    take = demo_take()
    short = type(take)("demo", take.scene, take.camera, take.film, 2, take.fps, take.seed)
    told = []
    clip = render_clip(short, lambda done, total: told.append((done, total)), workers=2)
    np.testing.assert_array_equal(clip.rgb[1], short.frame(1).rgb)
    np.testing.assert_array_equal(clip.rgb[0], short.frame(0).rgb)
    assert told == [(1, 2), (2, 2)]
