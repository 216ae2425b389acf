"""GPU kernels of the losses of consistent video depth: value and gradient in one pass.

Launched by :class:`megasam_server.video_depth.fused_objective.FusedObjective`;
:mod:`megasam_server.video_depth.consistency_losses` holds the plain-torch twins and the meaning.
Images are float32 [N,h,w], contiguous. A program works on BLOCK pixels, counted along the rows
(``program_id(0)``), of one frame (``program_id(1)``), and leaves what it summed in a place of its
own. Where several programs add to a pixel's gradient they do so atomically: the order, and with it
the last digits, differ from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def pair_kernel(
    disparity,
    uncertainty,
    first,
    order,
    target,
    projection,
    flow,
    mask,
    by_disparity,
    by_uncertainty,
    sums,
    height,
    width,
    ratio_weight,
    flow_weight,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    MOST_COMPARED: tl.constexpr,
    LEAST_DEPTH: tl.constexpr,
    UNCERTAINTY_COST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ratio_weight * ratio + flow_weight * flow, the sums of ``pair_sums``, for a frame's pairs.

    first: int32 [N+1], where the pairs of each source begin in ``order``, int32 [P]. target: int32
    [P]. projection: [P,3,4]. flow: [P,2,h,w]. mask: uint8 [P,h,w]. by_disparity is added to,
    by_uncertainty is written. sums: [N,blocks,2], loss and number of pixels that count.
    """
    frame = tl.program_id(1)
    pixels = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    x = (pixel % width).to(tl.float32)
    y = (pixel // width).to(tl.float32)
    own = frame.to(tl.int64) * pixels + pixel
    depth = 1 / tl.load(disparity + own, inside, 1.0)
    u = tl.load(uncertainty + own, inside, 1.0)
    error = tl.zeros((BLOCK,), tl.float32)
    number = tl.zeros((BLOCK,), tl.float32)
    by_depth = tl.zeros((BLOCK,), tl.float32)
    for place in range(tl.load(first + frame), tl.load(first + frame + 1)):
        pair = tl.load(order + place).to(tl.int64)
        m = projection + pair * 12
        ax = tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2)
        ay = tl.load(m + 4) * x + tl.load(m + 5) * y + tl.load(m + 6)
        az = tl.load(m + 8) * x + tl.load(m + 9) * y + tl.load(m + 10)
        px = ax * depth + tl.load(m + 3)
        py = ay * depth + tl.load(m + 7)
        pz = az * depth + tl.load(m + 11)
        trusted = tl.load(mask + pair * pixels + pixel, inside, 0) != 0
        counted = trusted & (pz > LEAST_DEPTH)
        step = flow + pair * (2 * pixels) + pixel
        at_x = x + tl.load(step, counted, 0.0).to(tl.float32)
        at_y = y + tl.load(step + pixels, counted, 0.0).to(tl.float32)
        # Also false for a flow that is not a number.
        counted = counted & (tl.abs(at_x) < 1e6) & (tl.abs(at_y) < 1e6)

        left = tl.floor(at_x)
        top = tl.floor(at_y)
        dx = at_x - left
        dy = at_y - top
        column = tl.where(counted, left, 0.0).to(tl.int32)
        row = tl.where(counted, top, 0.0).to(tl.int32)
        in_0 = counted & (column >= 0) & (column < width)
        in_1 = counted & (column >= -1) & (column < width - 1)
        row_0 = (row >= 0) & (row < height)
        row_1 = (row >= -1) & (row < height - 1)
        other = tl.load(target + pair).to(tl.int64) * pixels + row * width + column
        seen = (1 - dx) * (1 - dy) * tl.load(disparity + other, in_0 & row_0, 0.0)
        seen += dx * (1 - dy) * tl.load(disparity + other + 1, in_1 & row_0, 0.0)
        seen += (1 - dx) * dy * tl.load(disparity + other + width, in_0 & row_1, 0.0)
        seen += dx * dy * tl.load(disparity + other + width + 1, in_1 & row_1, 0.0)
        felt = counted & (seen >= LEAST) & (seen <= MOST_COMPARED)
        seen = tl.minimum(tl.maximum(seen, LEAST), MOST_COMPARED)

        z = tl.minimum(tl.maximum(pz, LEAST_DEPTH), MOST)
        brought = 1 / z
        per_seen = 1 / seen
        up = seen * z
        down = brought * per_seen
        ratio_error = tl.maximum(up, down) - 1
        error_x = px * brought - at_x
        error_y = py * brought - at_y
        one_error = ratio_weight * ratio_error
        one_error += flow_weight * (tl.abs(error_x) + tl.abs(error_y))
        error += tl.where(counted, one_error, 0.0)
        number += tl.where(counted, 1.0, 0.0)

        sign_x = flow_weight * _sign(error_x)
        sign_y = flow_weight * _sign(error_y)
        ratio_by_z = tl.where(up > down, seen, tl.where(up < down, -brought * down, 0.0))
        by_z = ratio_weight * ratio_by_z - brought * brought * (sign_x * px + sign_y * py)
        by_z = tl.where(pz <= MOST, by_z, 0.0)
        one_by_depth = by_z * az + brought * (sign_x * ax + sign_y * ay)
        by_depth += tl.where(counted, one_by_depth, 0.0)

        by_seen = tl.where(up > down, z, tl.where(up < down, -down * per_seen, 0.0))
        by_seen *= ratio_weight * u
        to = by_disparity + other
        in_0 = in_0 & felt
        in_1 = in_1 & felt
        tl.atomic_add(to, (1 - dx) * (1 - dy) * by_seen, in_0 & row_0, "relaxed")
        tl.atomic_add(to + 1, dx * (1 - dy) * by_seen, in_1 & row_0, "relaxed")
        tl.atomic_add(to + width, (1 - dx) * dy * by_seen, in_0 & row_1, "relaxed")
        tl.atomic_add(to + width + 1, dx * dy * by_seen, in_1 & row_1, "relaxed")

    cost = (ratio_weight + 2 * flow_weight) * UNCERTAINTY_COST
    tl.atomic_add(by_disparity + own, -depth * depth * u * by_depth, inside, "relaxed")
    tl.store(by_uncertainty + own, error - number * cost / u, inside)
    loss = error * u - number * cost * tl.log(u)
    place = sums + 2 * (frame * tl.num_programs(0) + tl.program_id(0))
    tl.store(place, tl.sum(tl.where(inside, loss, 0.0)))
    tl.store(place + 1, tl.sum(number))


@triton.jit
def _reflected(place, size):
    """Index of the pixel that padding by reflection shows at ``place``."""
    place = tl.abs(place)
    return size - 1 - tl.abs(size - 1 - place)


@triton.jit
def blur_kernel(
    disparity,
    prior,
    blurred,
    sums,
    height,
    width,
    centre,
    near,
    far,
    BLOCK: tl.constexpr,
):
    """``gaussian_blur`` of the depth, by its three weights.

    sums: [N,blocks,2], of log prior - log disparity, and of its square.
    """
    frame = tl.program_id(1)
    pixels = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    x = pixel % width
    y = pixel // width
    base = frame.to(tl.int64) * pixels
    total = tl.zeros((BLOCK,), tl.float32)
    for dy in tl.static_range(-2, 3):
        line = base + _reflected(y + dy, height) * width
        along = tl.zeros((BLOCK,), tl.float32)
        for dx in tl.static_range(-2, 3):
            depth = 1 / tl.load(disparity + line + _reflected(x + dx, width), inside, 1.0)
            along += depth * (centre if dx == 0 else (far if dx * dx == 4 else near))
        total += along * (centre if dy == 0 else (far if dy * dy == 4 else near))
    tl.store(blurred + base + pixel, total, inside)

    difference = tl.log(tl.load(prior + base + pixel, inside, 1.0))
    difference -= tl.log(tl.load(disparity + base + pixel, inside, 1.0))
    place = sums + 2 * (frame * tl.num_programs(0) + tl.program_id(0))
    tl.store(place, tl.sum(difference))
    tl.store(place + 1, tl.sum(difference * difference))


@triton.jit
def normal_kernel(
    blurred,
    prior_normals,
    flatness,
    intrinsics,
    by_gradients,
    sums,
    height,
    width,
    scale,
    BLOCK: tl.constexpr,
):
    """scale * flatness * (1 - cosine), summed, of the normals of the blurred depth.

    prior_normals: [N,3,h,w]. intrinsics: [N,4]. by_gradients: [N,6,h,w], the gradient by Sobel's
    change along x (3 channels) and along y of the points. sums: [N,blocks].
    """
    frame = tl.program_id(1)
    pixels = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    x = pixel % width
    y = pixel // width
    base = frame.to(tl.int64) * pixels
    lens = intrinsics + 4 * frame
    per_fx = 1 / tl.load(lens)
    per_fy = 1 / tl.load(lens + 1)
    shift_x = 0.5 - tl.load(lens + 2)
    shift_y = 0.5 - tl.load(lens + 3)
    left = tl.maximum(x - 1, 0)
    right = tl.minimum(x + 1, width - 1)
    ray_left = (left + shift_x) * per_fx
    ray_x = (x + shift_x) * per_fx
    ray_right = (right + shift_x) * per_fx
    ax = tl.zeros((BLOCK,), tl.float32)
    ay = tl.zeros((BLOCK,), tl.float32)
    az = tl.zeros((BLOCK,), tl.float32)
    bx = tl.zeros((BLOCK,), tl.float32)
    by = tl.zeros((BLOCK,), tl.float32)
    bz = tl.zeros((BLOCK,), tl.float32)
    for dy in tl.static_range(-1, 2):
        row = tl.minimum(tl.maximum(y + dy, 0), height - 1)
        line = blurred + base + row * width
        ray_y = (row + shift_y) * per_fy
        z_left = tl.load(line + left, inside, 1.0)
        z = tl.load(line + x, inside, 1.0)
        z_right = tl.load(line + right, inside, 1.0)
        step_z = (z_right - z_left) * 0.125
        smooth = 2 - dy * dy
        ax += smooth * 0.125 * (ray_right * z_right - ray_left * z_left)
        ay += smooth * ray_y * step_z
        az += smooth * step_z
        whole_z = (z_left + 2 * z + z_right) * 0.125
        bx += dy * 0.125 * (ray_left * z_left + 2 * ray_x * z + ray_right * z_right)
        by += dy * ray_y * whole_z
        bz += dy * whole_z
    nx = ay * bz - az * by
    ny = az * bx - ax * bz
    nz = ax * by - ay * bx
    length = tl.sqrt(nx * nx + ny * ny + nz * nz)
    per_length = 1 / tl.maximum(length, 1e-12)
    nx *= per_length
    ny *= per_length
    nz *= per_length
    prior = prior_normals + 3 * base + pixel
    prior_x = tl.load(prior, inside, 0.0)
    prior_y = tl.load(prior + pixels, inside, 0.0)
    prior_z = tl.load(prior + 2 * pixels, inside, 0.0)
    cosine = nx * prior_x + ny * prior_y + nz * prior_z
    weight = scale * tl.load(flatness + base + pixel, inside, 0.0)
    place = sums + frame * tl.num_programs(0) + tl.program_id(0)
    tl.store(place, tl.sum(weight * (1 - cosine)))

    along = tl.where(length >= 1e-12, cosine, 0.0)
    weight *= -per_length
    gx = weight * (prior_x - along * nx)
    gy = weight * (prior_y - along * ny)
    gz = weight * (prior_z - along * nz)
    to = by_gradients + 6 * base + pixel
    tl.store(to, by * gz - bz * gy, inside)
    tl.store(to + pixels, bz * gx - bx * gz, inside)
    tl.store(to + 2 * pixels, bx * gy - by * gx, inside)
    tl.store(to + 3 * pixels, gy * az - gz * ay, inside)
    tl.store(to + 4 * pixels, gz * ax - gx * az, inside)
    tl.store(to + 5 * pixels, gx * ay - gy * ax, inside)


@triton.jit
def point_kernel(
    by_gradients,
    intrinsics,
    by_blurred,
    height,
    width,
    BLOCK: tl.constexpr,
):
    """From the gradient by Sobel's outputs [N,6,h,w] to that by the blurred depth [N,h,w]."""
    frame = tl.program_id(1)
    pixels = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    x = pixel % width
    y = pixel // width
    base = frame.to(tl.int64) * pixels
    # A border pixel also stands for its copy outside.
    first_x = tl.where(x == 0, 1.0, 0.0)
    last_x = tl.where(x == width - 1, 1.0, 0.0)
    first_y = tl.where(y == 0, 1.0, 0.0)
    last_y = tl.where(y == height - 1, 1.0, 0.0)
    px = tl.zeros((BLOCK,), tl.float32)
    py = tl.zeros((BLOCK,), tl.float32)
    pz = tl.zeros((BLOCK,), tl.float32)
    for dy in tl.static_range(-1, 2):
        row = y + dy
        smooth_y = 2 + first_y + last_y if dy == 0 else 1.0
        step_y = last_y - first_y if dy == 0 else -dy * 1.0
        for dx in tl.static_range(-1, 2):
            column = x + dx
            smooth_x = 2 + first_x + last_x if dx == 0 else 1.0
            step_x = last_x - first_x if dx == 0 else -dx * 1.0
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = by_gradients + 6 * base + row * width + column
            along_x = smooth_y * step_x * 0.125
            along_y = step_y * smooth_x * 0.125
            px += along_x * tl.load(at, there, 0.0)
            py += along_x * tl.load(at + pixels, there, 0.0)
            pz += along_x * tl.load(at + 2 * pixels, there, 0.0)
            px += along_y * tl.load(at + 3 * pixels, there, 0.0)
            py += along_y * tl.load(at + 4 * pixels, there, 0.0)
            pz += along_y * tl.load(at + 5 * pixels, there, 0.0)
    lens = intrinsics + 4 * frame
    ray_x = (x + 0.5 - tl.load(lens + 2)) / tl.load(lens)
    ray_y = (y + 0.5 - tl.load(lens + 3)) / tl.load(lens + 1)
    tl.store(by_blurred + base + pixel, ray_x * px + ray_y * py + pz, inside)


@triton.jit
def _weight_of(step, centre, near, far):
    step = tl.abs(step)
    outer = tl.where(step == 2, far, 0.0)
    return tl.where(step == 0, centre, tl.where(step == 1, near, outer))


@triton.jit
def _transposed_weight(step: tl.constexpr, place, size, centre, near, far):
    """What the pixel at ``place + step`` takes from the one at ``place``: also by its reflections."""
    weight = _weight_of(place * 0 + step, centre, near, far)
    before = _weight_of(2 * place + step, centre, near, far)
    after = _weight_of(2 * (size - 1 - place) - step, centre, near, far)
    weight += tl.where(place > 0, before, 0.0)
    return weight + tl.where(place < size - 1, after, 0.0)


@triton.jit
def finish_kernel(
    disparity,
    prior,
    by_blurred,
    pair_sums,
    differences,
    by_disparity,
    by_uncertainty,
    height,
    width,
    centre,
    near,
    far,
    scale_invariant_weight,
    BLOCK: tl.constexpr,
):
    """Gradients of the pair losses divided by their weight; to that by disparity is added what
    comes through the blurred depth, and that of the scale-invariant loss.

    pair_sums: [2] and differences: [N,2], the sums of ``pair_kernel`` and ``blur_kernel``.
    """
    frame = tl.program_id(1)
    pixels = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    x = pixel % width
    y = pixel // width
    base = frame.to(tl.int64) * pixels
    by_depth = tl.zeros((BLOCK,), tl.float32)
    for dy in tl.static_range(-2, 3):
        row = y + dy
        line = by_blurred + base + row * width
        weight_y = _transposed_weight(dy, y, height, centre, near, far)
        for dx in tl.static_range(-2, 3):
            column = x + dx
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = weight_y * _transposed_weight(dx, x, width, centre, near, far)
            by_depth += weight * tl.load(line + column, there, 0.0)
    own = tl.load(disparity + base + pixel, inside, 1.0)
    depth = 1 / own
    difference = tl.log(tl.load(prior + base + pixel, inside, 1.0)) - tl.log(own)
    difference -= tl.load(differences + 2 * frame) / pixels
    by_log = -2 * scale_invariant_weight * difference
    share = 1 / tl.maximum(tl.load(pair_sums + 1), 1.0)
    to = by_disparity + base + pixel
    total = tl.load(to, inside, 0.0) * share + depth * (by_log - depth * by_depth)
    tl.store(to, total, inside)
    to = by_uncertainty + base + pixel
    tl.store(to, tl.load(to, inside, 0.0) * share, inside)


@triton.jit
def edge_kernel(
    disparity,
    prior,
    by_disparity,
    sums,
    height,
    width,
    step,
    scale,
    BLOCK: tl.constexpr,
):
    """scale * ``gradient_loss`` before its mean, at every ``step``-th pixel; the gradient is added.

    Of the coarse picture its inner pixels are counted. sums: [N,blocks].
    """
    frame = tl.program_id(1)
    inner = width // step - 2
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < inner * (height // step - 2)
    x = (number % inner + 1) * step + step // 2
    y = (number // inner + 1) * step + step // 2
    at = frame.to(tl.int64) * (height * width) + y * width + x
    down = step * width
    left = tl.load(disparity + at - step, inside, 1.0)
    right = tl.load(disparity + at + step, inside, 1.0)
    upper = tl.load(disparity + at - down, inside, 1.0)
    lower = tl.load(disparity + at + down, inside, 1.0)
    own_x = tl.log(right) - tl.log(left)
    own_y = tl.log(lower) - tl.log(upper)
    prior_x = tl.log(tl.load(prior + at + step, inside, 1.0))
    prior_x -= tl.log(tl.load(prior + at - step, inside, 1.0))
    prior_y = tl.log(tl.load(prior + at + down, inside, 1.0))
    prior_y -= tl.log(tl.load(prior + at - down, inside, 1.0))
    strength = tl.abs(own_x) + tl.abs(own_y) - tl.abs(prior_x) - tl.abs(prior_y)
    near = inside & (tl.load(disparity + at, inside, 1.0) > 1)
    weight = tl.where(near, scale * (1 - tl.exp(-5 * tl.abs(strength))), 0.0)
    loss = weight * (tl.abs(own_x - prior_x) + tl.abs(own_y - prior_y))
    tl.store(sums + frame * tl.num_programs(0) + tl.program_id(0), tl.sum(loss))
    by_x = weight * _sign(own_x - prior_x)
    by_y = weight * _sign(own_y - prior_y)
    to = by_disparity + at
    tl.atomic_add(to + step, by_x / right, near, "relaxed")
    tl.atomic_add(to - step, -by_x / left, near, "relaxed")
    tl.atomic_add(to + down, by_y / lower, near, "relaxed")
    tl.atomic_add(to - down, -by_y / upper, near, "relaxed")
