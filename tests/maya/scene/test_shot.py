"""Reading a result folder without numpy, and what options and shots refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.shot import read_shot
from megasam_shared.errors import MegasamError

from tests.fake_maya.matrices import world_matrix
from tests.maya.scene.conftest import node_of
from tests.maya.scene.made_up_solve import make_up_solve


def test_a_shot_knows_its_plate_and_previews(solve):
    shot = read_shot(solve.folder, solve.plate, job="ab12")
    assert shot.name == "sh010" and shot.job == "ab12"
    assert shot.plate.name == shot.depth_preview.name == "sh010.1001.png"
    assert read_shot(solve.folder, solve.plate / "sh010.####.png").plate == shot.plate
    assert shot.depth_near_far == (4.0, 30.0)
    np.testing.assert_allclose(shot.points(7), solve.points[:7] * (1, -1, -1), rtol=1e-6)
    assert len(shot.points(1000)) == 60


@pytest.mark.parametrize(
    "damage, code",
    [
        (lambda f: (f / "quality.json").unlink(), "results_unreadable"),
        (lambda f: (f / "camera_extrinsics.json").write_text("{"), "results_unreadable"),
        (lambda f: (f / "camera_extrinsics.json").write_text("[]"), "results_unreadable"),
        (lambda f: (f / "camera_extrinsics.json").write_text("{}"), "extrinsics_invalid"),
        (lambda f: (f / "points.ply").write_bytes(b"ply\nend_header\n"), "points_unreadable"),
        (lambda f: (f / "points.ply").unlink(), "points_unreadable"),
    ],
)
def test_a_damaged_folder_is_said_before_anything_changes(maya, host, solve, damage, code):
    damage(solve.folder)
    before = maya.snapshot()
    with pytest.raises(MegasamError) as caught:
        apply_shot(read_shot(solve.folder), ApplyOptions(), host)
    assert caught.value.code == code
    assert maya.snapshot() == before


def test_a_plate_without_the_solved_frames_is_refused(solve):
    (solve.plate / "sh010.1001.png").unlink()
    with pytest.raises(MegasamError) as caught:
        read_shot(solve.folder, solve.plate)
    assert caught.value.code == "frame_range_empty"
    with pytest.raises(MegasamError) as caught:
        read_shot(solve.folder, solve.plate / "other.mov")
    assert caught.value.code == "plate_not_found"


@pytest.mark.parametrize(
    "option",
    [
        {"scene_scale": 0},
        {"scene_scale": float("nan")},
        {"film_back_mm": -1.0},
        {"lens_mm": float("inf")},
        {"max_points": 2001},
        {"points": "dots"},
        {"focal": "wobbly"},
    ],
)
def test_options_are_checked(option):
    with pytest.raises(MegasamError) as caught:
        ApplyOptions(**option)
    assert caught.value.code == "apply_option_invalid"


def test_notices_say_what_the_artist_should_know(maya, host, solve):
    maya.fps = 25.0
    made = apply_shot(read_shot(solve.folder), ApplyOptions(), host)
    codes = [notice.code for notice in made.notices]
    assert codes == ["frame_rate_differs", "plate_not_known", "scale_not_known"]
    assert made.image_plane == "" and made.depth_plane


def test_a_movie_and_an_exr_plate_say_what_they_need(maya, host, solve, tmp_path):
    movie = tmp_path / "plate.mov"
    movie.touch()
    made = apply_shot(read_shot(solve.folder, movie), ApplyOptions(), host)
    assert "plate_is_movie" in [notice.code for notice in made.notices]
    assert maya.value(node_of(maya, made.image_plane), "type") == 2
    maya.plugins.discard("OpenEXRLoader")
    for number in solve.frames:
        (tmp_path / "plate" / f"a.{number}.exr").touch()
    shot = read_shot(solve.folder, tmp_path / "plate" / "a.####.exr")
    made = apply_shot(shot, ApplyOptions(camera=made.camera), host)
    assert "exr_loader_missing" in [notice.code for notice in made.notices]
    assert maya.value(node_of(maya, made.image_plane), "type") == 0


def test_usd_points_are_one_node_at_the_right_scale(maya, host, cmds, solve):
    (solve.folder / "camera.usda").write_text('#usda 1.0\n(\n    defaultPrim = "sh010_solve"\n)\n')
    shot = read_shot(solve.folder)
    made = apply_shot(shot, ApplyOptions(points="usd", scene_scale=0.5), host)
    node = node_of(maya, made.points)
    (proxy,) = maya.children(node)
    assert proxy.type == "mayaUsdProxyShape"
    assert maya.value(proxy, "primPath") == "/sh010_solve/points"
    assert Path(maya.value(proxy, "filePath")).is_file()
    np.testing.assert_allclose(np.diag(world_matrix(maya, node)), [0.5, 0.5, 0.5, 1])
    maya.plugins.clear()
    maya.loaded_plugins.clear()
    made = apply_shot(shot, ApplyOptions(points="usd"), host)
    assert made.points == "" and "usd_points_missing" in [n.code for n in made.notices]


def test_nothing_of_the_scene_side_needs_more_than_python(solve):
    code = (
        "import sys\n"
        "import megasam_maya.scene.apply, megasam_maya.scene.levelling\n"
        "from megasam_maya.shot import read_shot\n"
        "from pathlib import Path\n"
        f"shot = read_shot(Path({str(solve.folder)!r}), Path({str(solve.plate)!r}))\n"
        "print(len(shot.points(9)), sorted(set(sys.modules) & {'numpy', 'torch', 'maya', 'zmq'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "9 []\n", done.stderr


def test_a_solve_in_metres_says_so(maya, host, cmds, tmp_path):
    solve = make_up_solve(tmp_path / "r")
    path = solve.folder / "camera_extrinsics.json"
    extrinsics = json.loads(path.read_text()) | {"scale_is_metric": True, "units_length": "metres"}
    path.write_text(json.dumps(extrinsics))
    made = apply_shot(read_shot(solve.folder, solve.plate), ApplyOptions(), host)
    assert made.notices == []
    assert cmds.getAttr(f"{made.camera_path}|sh010_camShape.megasamScale") == "metres"
