"""Consistent video depth: gradients, chunks, and what it makes of a scene that is known."""

from __future__ import annotations

import weakref

import pytest

torch = pytest.importorskip("torch")
kornia = pytest.importorskip("kornia")

from megasam_server.flow.consistency import consistent  # noqa: E402
from megasam_server.video_depth.consistency_losses import (  # noqa: E402
    FlowPairs,
    flatness_weight,
    gradient_loss,
    normal_loss,
    pair_sums,
    scale_invariant_loss,
    surface_normals,
)
from megasam_server.video_depth.consistency_objective import LossWeights, Objective  # noqa: E402
from megasam_server.video_depth.image_filters import (  # noqa: E402
    gaussian_blur,
    sobel_gradients,
)
from megasam_server.video_depth.optimise import (  # noqa: E402
    ConsistencyOptions,
    depth_at_size,
    make_consistent,
)
from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

HEIGHT, WIDTH = 18, 24
INTRINSICS = torch.tensor([22.0, 21.0, 11.5, 8.5])


def slanted_plane(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A camera that travels past a slanted plane: true disparities [N,h,w], world_from_cam [N,4,4].

    The plane is nX = 1; seen from (t, 0, 0) without rotation, the disparity at a pixel with the ray r
    is n r / (1 - n t).
    """
    cameras = torch.eye(4).repeat(frames, 1, 1)
    cameras[:, 0, 3] = 0.12 * torch.arange(frames)
    fx, fy, cx, cy = INTRINSICS
    x = (torch.arange(WIDTH) - cx) / fx  # [w]
    y = (torch.arange(HEIGHT)[:, None] - cy) / fy  # [h,1]
    normal = torch.tensor([0.25, 0.2, 0.8])
    along_ray = normal[0] * x + normal[1] * y + normal[2]  # [h,w]
    return along_ray / (1 - normal[0] * cameras[:, 0, 3, None, None]), cameras


def true_pairs(disparity: torch.Tensor, cameras: torch.Tensor, steps=(1, 2)) -> FlowPairs:
    """Pairs of those steps with the flow that the true scene has, and its round-trip mask."""
    frames = len(disparity)
    source = torch.cat([torch.arange(frames - step) for step in steps])
    target = torch.cat([torch.arange(step, frames) for step in steps])

    def flow(a, b):
        travel = cameras[b, 0, 3] - cameras[a, 0, 3]  # [P]
        moved = -INTRINSICS[0] * travel[:, None, None] * disparity[a]  # [P,h,w]
        return torch.stack([moved, torch.zeros_like(moved)], 1)

    forward, backward = flow(source, target), flow(target, source)
    arrives = torch.arange(WIDTH) + forward[:, 0]  # [P,h,w]
    mask = consistent(forward, backward) & (arrives >= 0) & (arrives <= WIDTH - 1)
    return FlowPairs.between(source, target, forward, mask, cameras, INTRINSICS)


def random_problem(frames=4, pairs=7, height=6, width=8, dtype=torch.float64):
    """Disparity, uncertainty, prior [N,h,w], random pairs, intrinsics: nothing fits anything."""
    generator = torch.Generator().manual_seed(5)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=dtype)

    cameras = torch.eye(4).repeat(frames, 1, 1)
    cameras[:, :3, 3] = 0.2 * uniform(frames, 3).float()
    source = torch.arange(pairs) % frames
    intrinsics = torch.tensor([7.0, 6.5, 3.6, 2.4])
    flow_pairs = FlowPairs.between(
        source,
        (source + 1) % frames,
        1.8 * uniform(pairs, 2, height, width).float() - 0.9,
        uniform(pairs, height, width) > 0.2,
        cameras,
        intrinsics,
    )
    size = (frames, height, width)
    return 0.3 + uniform(*size), 0.1 + uniform(*size), 0.3 + uniform(*size), flow_pairs, intrinsics


@pytest.mark.parametrize("which", ["ratio", "flow"])
def test_gradients_between_frames_are_finite_differences(which):
    disparity, uncertainty, _, pairs, _ = random_problem()

    def loss(d, u):
        ratio, flow, _ = pair_sums(d, u, pairs)
        return ratio if which == "ratio" else flow

    inputs = (disparity.requires_grad_(), uncertainty.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)


def test_gradients_within_frames_are_finite_differences():
    disparity, _, prior, _, intrinsics = random_problem(frames=2)
    normals, flatness = surface_normals(prior, intrinsics), flatness_weight(prior)
    disparity.requires_grad_()
    for loss in (
        lambda d: scale_invariant_loss(d, prior),
        lambda d: normal_loss(surface_normals(d, intrinsics), normals, flatness),
    ):
        assert torch.autograd.gradcheck(loss, disparity, eps=1e-7, atol=1e-6, rtol=1e-5)


def test_gradient_loss_by_finite_differences():
    """Its weight is held while it is differentiated. Where the prior is flat and the disparity is
    steep, the weight is 1 whatever the disparity does, and so the differences show the rest.
    """
    steep = torch.exp(
        100 * torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(0)).double()
    )
    flat = torch.ones_like(steep)
    near = steep > 1
    assert near.any() and not near.all()

    def loss(d):
        return gradient_loss(steep * (1 + d), flat)

    step = torch.zeros_like(steep).requires_grad_()
    assert torch.autograd.gradcheck(loss, step, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_filters_are_those_of_kornia():
    images = torch.rand(2, 3, 9, 11)
    blurred = kornia.filters.gaussian_blur2d(images, (5, 5), (2.0, 2.0))
    torch.testing.assert_close(gaussian_blur(images.flatten(0, 1)), blurred.flatten(0, 1))
    gradients = kornia.filters.spatial_gradient(images).unbind(2)
    torch.testing.assert_close(sobel_gradients(images), gradients)


def test_the_normal_of_a_plane():
    disparity, _ = slanted_plane(1)
    # Normals have their pixel centres at + 0.5.
    shifted = INTRINSICS + torch.tensor([0, 0, 0.5, 0.5])
    inside = surface_normals(disparity, shifted)[0, :, 4:-4, 4:-4]
    expected = torch.tensor([0.25, 0.2, 0.8])
    cosine = torch.einsum("c,cyx->yx", expected / expected.norm(), inside)
    assert cosine.abs().min() > 0.999


def test_the_true_scene_costs_nothing():
    disparity, cameras = slanted_plane(4)
    pairs = true_pairs(disparity, cameras)
    ratio, flow, weight = pair_sums(disparity, torch.ones_like(disparity), pairs)
    assert weight > 0.6 * pairs.mask.numel()
    # Disparity is linear in the image, so that even what is interpolated is exact.
    assert ratio / weight < 1e-5
    assert flow / (2 * weight) < 1e-4


def test_wrong_scales_of_frames_are_found():
    truth, cameras = slanted_plane(6)
    pairs = true_pairs(truth, cameras)
    wrong = torch.tensor([1.0, 1.1, 0.9, 1.05, 0.95, 1.08])[:, None, None]
    prior = truth * wrong
    done = make_consistent(
        prior,
        torch.full_like(prior, 0.5),
        pairs,
        INTRINSICS,
        ConsistencyOptions(frame_iterations=60, pixel_iterations=60),
    )

    def error(disparity):
        return (disparity / truth).log().abs().mean()

    assert error(prior) > 0.06
    assert error(done.disparity) < 0.2 * error(prior)
    assert done.pixel_losses[-1] < 0.3 * done.frame_losses[0]


def test_a_moving_thing_is_forgiven():
    """Where the flow is not that of the scene, the uncertainty falls and the prior stands."""
    truth, cameras = slanted_plane(5)
    pairs = true_pairs(truth, cameras)
    moving = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    moving[1:7, 8:15] = True
    pairs.flow[:, 1, moving] += 8.0
    done = make_consistent(
        truth,
        torch.full_like(truth, 0.5),
        pairs,
        INTRINSICS,
        ConsistencyOptions(frame_iterations=20, pixel_iterations=60),
    )
    seen = pairs.mask[0] & moving
    still = pairs.mask[0] & ~moving
    assert done.uncertainty[0][seen].mean() < 0.5 * done.uncertainty[0][still].mean()
    assert (done.disparity[0] / truth[0]).log().abs()[still].mean() < 0.03


def test_every_iteration_is_reported():
    disparity, uncertainty, _, pairs, intrinsics = random_problem(dtype=torch.float32)
    # The coarsest scale of the gradient loss needs a few pixels.
    seen = []
    options = ConsistencyOptions(frame_iterations=2, pixel_iterations=1)
    larger = [F.interpolate(v[:, None], scale_factor=4)[:, 0] for v in (disparity, uncertainty)]
    flow = F.interpolate(pairs.flow, scale_factor=4)
    mask = F.interpolate(pairs.mask[:, None].float(), scale_factor=4)[:, 0] > 0.5
    pairs = FlowPairs(pairs.source, pairs.target, flow, mask, pairs.projection)
    make_consistent(*larger, pairs, intrinsics, options, lambda *done: seen.append(done))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_depth_keeps_its_range_and_sign():
    disparity = torch.tensor([[[-1.0, 0.0], [1e-5, 1e5]]])
    assert depth_at_size(disparity, 2, 2).flatten().tolist() == pytest.approx(
        [100, 100, 100, 0.001]
    )


class LiveBytes(TorchDispatchMode):
    """Counts the memory of all tensors made while it is on, and not that of ``given``; ``peak`` is the
    most at one time.
    """

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.peak, self._now = 0, 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.remove(key)
        self._now -= size


def test_memory_does_not_grow_with_the_number_of_pairs():
    """Four times the pairs of the same frames, in chunks of 4: the same peak."""

    def peak(repeats: int) -> int:
        truth, cameras = slanted_plane(6)
        pairs = true_pairs(truth, cameras, steps=(1,))
        # In an order in which every chunk of 4 touches all frames.
        pairs = pairs[torch.tensor([0, 4, 1, 3]).repeat(repeats)]
        size = 4 * HEIGHT * WIDTH
        k = INTRINSICS.expand(len(truth), 4)
        objective = Objective(truth, torch.ones_like(truth), k, pairs, LossWeights(), size)
        with LiveBytes(pairs.flow, pairs.mask, pairs.projection) as live:
            objective(truth, torch.full_like(truth, 0.5))
        return live.peak

    few, many = peak(2), peak(8)
    assert few > 4 * HEIGHT * WIDTH * 100, "the count must see the differentiation"
    assert many < 1.01 * few
