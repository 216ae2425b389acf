"""Pixels carried between frames: Jacobians against autograd, distances against a plain sum."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.geometry import projective, se3  # noqa: E402

from tests.server.geometry.dense_scene import DenseScene  # noqa: E402


@pytest.fixture(scope="module")
def scene() -> DenseScene:
    return DenseScene(frames=4, height=5, width=6)


def test_projection_is_back_project_act_project(scene):
    """The fast way against the plain formulas, with a camera per frame."""
    intrinsics = scene.intrinsics + torch.arange(4.0, dtype=torch.float64)[:, None] * 0.3
    coords, valid = projective.projective_transform(
        scene.poses, scene.disps, intrinsics, scene.ii, scene.jj
    )
    focal, centre = intrinsics[:, None, None].split(2, dim=-1)  # [N, 1, 1, 2] each
    rays = (projective.pixel_grid(5, 6, torch.float64) - centre) / focal
    ones = torch.ones_like(rays[..., :1])
    points = torch.cat([rays, ones, scene.disps[..., None]], dim=-1)[scene.ii]
    relative = se3.compose(scene.poses[scene.jj], se3.inverse(scene.poses[scene.ii]))
    moved = se3.act(relative[:, None, None], points)
    slopes = moved[..., :2] / moved[..., 2:3]
    torch.testing.assert_close(coords, slopes * focal[scene.jj] + centre[scene.jj])
    assert valid.all()


def test_a_frame_sees_its_own_pixels_where_they_are(scene):
    same = torch.tensor([2])
    coords, _ = projective.projective_transform(
        scene.poses, scene.disps, scene.intrinsics, same, same
    )
    torch.testing.assert_close(coords[0], projective.pixel_grid(5, 6, torch.float64))


def test_jacobians_against_autograd(scene):
    ii, jj = torch.tensor([0, 2]), torch.tensor([1, 0])
    poses, disps, intrinsics = scene.poses, scene.disps, scene.intrinsics

    def coords(twist_i, twist_j, disps, focal_in_widths):
        """Edges have poses of their own here, so that i and j move apart."""
        moved_i = se3.retract(poses[ii], twist_i)
        moved_j = se3.retract(poses[jj], twist_j)
        growth = 2 * intrinsics[2] * focal_in_widths
        camera = torch.stack([intrinsics[0] + growth, intrinsics[1] + growth, *intrinsics[2:]])
        first = torch.arange(2)
        return projective.projective_transform(
            torch.cat([moved_i, moved_j]), disps.repeat(2, 1, 1), camera, first, first + 2
        )[0]

    still = torch.zeros(2, 6, dtype=torch.float64)
    inputs = (still, still, disps[ii], torch.zeros((), dtype=torch.float64))
    by_i, by_j, by_disp, by_focal = torch.autograd.functional.jacobian(coords, inputs)
    *_, ours = projective.projective_transform(poses, disps, intrinsics, ii, jj, jacobians=True)
    close = torch.testing.assert_close
    for edge in range(2):
        close(ours.pose_i[edge], by_i[edge, :, :, :, edge])
        close(ours.pose_j[edge], by_j[edge, :, :, :, edge])
        own = by_disp[edge, :, :, :, edge].flatten(3).flatten(0, 1)  # [pixels, 2, pixels]
        own = own.diagonal(dim1=0, dim2=2).T.unflatten(0, (5, 6))
        close(ours.disparity[edge, ..., 0], own)
        close(ours.focal[edge, ..., 0], by_focal[edge])


def test_points_behind_the_camera_are_not_valid_and_stay_finite(scene):
    """Camera 1 is put among the points of frame 0."""
    poses = se3.identity(2, dtype=torch.float64)
    poses[1, 2] = -1 / scene.disps[0].median()
    ends = torch.tensor([0]), torch.tensor([1])
    coords, valid, jacobians = projective.projective_transform(
        poses, scene.disps[:2], scene.intrinsics, *ends, jacobians=True
    )
    # A point of depth 1/d has depth 1/d - shift in camera 1; the map holds it times d.
    ahead = 1 + poses[1, 2] * scene.disps[0] > projective.MIN_DEPTH
    assert torch.equal(valid[0], ahead)
    assert 0 < ahead.sum() < ahead.numel()
    assert coords.isfinite().all()
    assert all(part.isfinite().all() for part in jacobians)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_frame_distance_is_the_mean_motion(scene, beta):
    i, j = torch.tensor([0]), torch.tensor([2])
    grid = projective.pixel_grid(5, 6, torch.float64)

    def one_way(i, j):
        arguments = scene.disps, scene.intrinsics, i, j
        full, _ = projective.projective_transform(scene.poses, *arguments)
        relative = se3.compose(scene.poses[j], se3.inverse(scene.poses[i]))
        shift = se3.identity(3, dtype=torch.float64)
        shift[j, :3] = relative[:, :3]
        moved, _ = projective.projective_transform(shift, *arguments)
        return (
            beta * (full - grid).norm(dim=-1).mean()
            + (1 - beta) * (moved - grid).norm(dim=-1).mean()
        )

    both = projective.frame_distance(scene.poses, scene.disps, scene.intrinsics, i, j, beta)
    torch.testing.assert_close(both[0], (one_way(i, j) + one_way(j, i)) / 2)


def test_frames_that_do_not_see_each_other_are_far_apart(scene):
    """The second camera looks the other way; the third has most points behind it, and sees the first."""
    poses = se3.identity(3, dtype=torch.float64)
    poses[1, 3:] = torch.tensor([0, 1.0, 0, 0])
    poses[2, 2] = -1 / scene.disps[0].min()
    distance = projective.frame_distance(
        poses,
        scene.disps,
        scene.intrinsics,
        torch.tensor([0, 0, 0]),
        torch.tensor([1, 2, 0]),
        beta=1.0,
    ).tolist()
    assert distance[0] == projective.FAR_APART
    assert projective.FAR_APART / 2 < distance[1] < projective.FAR_APART
    assert distance[2] == pytest.approx(0.0)


def test_many_edges_are_worked_on_in_groups(scene, monkeypatch):
    arguments = (scene.poses, scene.disps, scene.intrinsics, scene.ii, scene.jj, 0.3)
    at_once = projective.frame_distance(*arguments)
    monkeypatch.setattr(projective, "PIXELS_AT_ONCE", 2 * 5 * 6)
    torch.testing.assert_close(projective.frame_distance(*arguments), at_once)
