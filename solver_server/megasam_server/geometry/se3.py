"""Rigid motions as plain tensors, with the conventions of lietorch.

A pose is [..., 7] = (tx, ty, tz, qx, qy, qz, qw), here always ``cam_from_world``. A twist is
[..., 6] = (tau, phi): translation first, phi in radians. Updates are on the left:
``retract(T, xi) = Exp(xi) T``. Every function broadcasts over leading axes, keeps dtype and device,
is differentiable (also at the identity) and normalises the quaternion that it is given.

The closed forms are in Sola, Deray, Atchuthan, "A micro Lie theory", 2018, example 4. Near zero
their quotients are 0/0; there the Taylor series is used, up to an angle at which both are exact to
double precision: in float32 the quotients lose their digits long before they are 0/0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import normalize, pad

# Below this angle (radians) series replace quotients; the first term left out is below 1e-15.
SERIES_ANGLE = 0.5
# (theta - sin theta) / theta^3 in powers of theta^2.
_SINE_RESIDUE = (1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800)
# (1 - theta/2 cot(theta/2)) / theta^2 in powers of theta^2.
_COTANGENT_RESIDUE = (1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000)


def exp(twist: Tensor) -> Tensor:
    """Pose of a twist, [..., 6] -> [..., 7]."""
    tau, phi = twist.split(3, dim=-1)
    squared = vecdot(phi, phi).unsqueeze(-1)  # [..., 1]
    angle = _angle(squared)
    # torch.sinc is sin(pi x)/(pi x), with its limit and derivative at zero.
    half_sinc = torch.sinc(angle / (2 * torch.pi))
    quaternion = torch.cat([0.5 * half_sinc * phi, torch.cos(angle / 2)], dim=-1)
    # Left Jacobian V = I + (1 - cos)/theta^2 [phi]x + (theta - sin)/theta^3 [phi]x^2.
    near = angle < SERIES_ANGLE
    # Both branches of torch.where are differentiated: neither may divide by zero.
    far = angle.masked_fill(near, 1.0)
    second = torch.where(near, _polynomial(_SINE_RESIDUE, squared), (far - torch.sin(far)) / far**3)
    turned = _cross(phi, tau)
    translation = tau + 0.5 * half_sinc**2 * turned + second * _cross(phi, turned)
    return torch.cat([translation, quaternion], dim=-1)


def log(pose: Tensor) -> Tensor:
    """Twist of a pose, [..., 7] -> [..., 6]; the shorter way round, angle in [0, pi]."""
    translation, vector, scalar = _parts(pose)
    sign = torch.ones_like(scalar).masked_fill(scalar < 0, -1.0)
    vector, scalar = sign * vector, sign * scalar
    sine = _angle(vecdot(vector, vector).unsqueeze(-1))  # of half the angle
    phi = 2 * torch.atan2(sine, scalar) / sine * vector
    squared = vecdot(phi, phi).unsqueeze(-1)
    angle = _angle(squared)
    # V^-1 = I - 1/2 [phi]x + (1 - theta/2 cot(theta/2)) / theta^2 [phi]x^2.
    near = angle < SERIES_ANGLE
    far = angle.masked_fill(near, 1.0)
    second = torch.where(
        near,
        _polynomial(_COTANGENT_RESIDUE, squared),
        (1 - far / 2 / torch.tan(far / 2)) / far**2,
    )
    turned = _cross(phi, translation)
    tau = translation - 0.5 * turned + second * _cross(phi, turned)
    return torch.cat([tau, phi], dim=-1)


def inverse(pose: Tensor) -> Tensor:
    """The inverse motion, [..., 7] -> [..., 7]."""
    translation, vector, scalar = _parts(pose)
    return torch.cat([-_rotate(-vector, scalar, translation), -vector, scalar], dim=-1)


def relative(a: Tensor, b: Tensor) -> Tensor:
    """``a * b^-1``: from b's camera to a's; [..., 7] x [..., 7] -> [..., 7]."""
    translation_a, vector_a, scalar_a = _parts(a)
    translation_b, vector_b, scalar_b = _parts(b)
    vector = scalar_b * vector_a - scalar_a * vector_b - _cross(vector_a, vector_b)
    scalar = scalar_a * scalar_b + vecdot(vector_a, vector_b).unsqueeze(-1)
    translation = translation_a - _rotate(vector, scalar, translation_b)
    return torch.cat([translation, vector, scalar], dim=-1)


def compose(a: Tensor, b: Tensor) -> Tensor:
    """``a * b``: first b, then a; [..., 7] x [..., 7] -> [..., 7]."""
    translation_a, vector_a, scalar_a = _parts(a)
    translation_b, vector_b, scalar_b = _parts(b)
    translation = translation_a + _rotate(vector_a, scalar_a, translation_b)
    vector = scalar_a * vector_b + scalar_b * vector_a + _cross(vector_a, vector_b)
    scalar = scalar_a * scalar_b - vecdot(vector_a, vector_b).unsqueeze(-1)
    return torch.cat([translation, vector, scalar], dim=-1)


def retract(pose: Tensor, twist: Tensor) -> Tensor:
    """``Exp(twist) * pose``, [..., 7] x [..., 6] -> [..., 7]."""
    return compose(exp(twist), pose)


def adjoint(pose: Tensor, twist: Tensor) -> Tensor:
    """``Ad(T) xi`` with ``T Exp(xi) T^-1 = Exp(Ad(T) xi)``, [..., 7] x [..., 6] -> [..., 6].

    Ad = [R, [t]x R; 0, R].
    """
    translation, vector, scalar = _parts(pose)
    tau, phi = twist.split(3, dim=-1)
    phi = _rotate(vector, scalar, phi)
    tau = _rotate(vector, scalar, tau) + _cross(translation, phi)
    return torch.cat([tau, phi], dim=-1)


def adjoint_transpose(pose: Tensor, covector: Tensor) -> Tensor:
    """``Ad(T)^T c``, which carries gradients back, [..., 7] x [..., 6] -> [..., 6]."""
    translation, vector, scalar = _parts(pose)
    force, torque = covector.split(3, dim=-1)
    torque = _rotate(-vector, scalar, torque - _cross(translation, force))
    return torch.cat([_rotate(-vector, scalar, force), torque], dim=-1)


def adjoint_matrix(motion: Tensor) -> Tensor:
    """Ad(T) itself, of the pose's matrix: [..., 4, 4] -> [..., 6, 6]."""
    rotation, translation = motion[..., :3, :3], motion[..., :3, 3:]
    turned = torch.linalg.cross(translation.expand_as(rotation), rotation, dim=-2)
    upper = torch.cat([rotation, turned], dim=-1)
    return torch.cat([upper, pad(rotation, (3, 0))], dim=-2)


def act(pose: Tensor, points: Tensor) -> Tensor:
    """Move homogeneous points, [..., 7] x [..., 4] -> [..., 4]; the fourth component stays."""
    translation, vector, scalar = _parts(pose)
    position, weight = points.split((3, 1), dim=-1)
    moved = _rotate(vector, scalar, position) + weight * translation
    return torch.cat([moved, weight.expand_as(moved[..., :1])], dim=-1)


def matrix(pose: Tensor) -> Tensor:
    """[..., 7] -> [..., 4, 4]."""
    corners = torch.eye(4, dtype=pose.dtype, device=pose.device)
    return act(pose.unsqueeze(-2), corners).mT


def from_matrix(motion: Tensor) -> Tensor:
    """Pose of a rigid motion, [..., 4, 4] -> [..., 7], qw >= 0.

    Shepperd's method (1978): of the four ways to write the quaternion, the one with the largest
    divisor.
    """
    rotation = motion[..., :3, :3]
    diagonal = rotation.diagonal(dim1=-2, dim2=-1)  # [..., 3]
    trace = diagonal.sum(-1, keepdim=True)
    # Four times the squares of (x, y, z, w).
    squares = torch.cat([1 + 2 * diagonal - trace, 1 + trace], dim=-1)  # [..., 4]
    (r01, r02, r10, r12, r20, r21) = (
        rotation[..., i, j] for i, j in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
    )
    xy, xz, yz = r01 + r10, r02 + r20, r12 + r21
    xw, yw, zw = r21 - r12, r02 - r20, r10 - r01
    xx, yy, zz, ww = squares.unbind(-1)
    # Row k is 4 q_k q.
    rows = torch.stack([xx, xy, xz, xw, xy, yy, yz, yw, xz, yz, zz, zw, xw, yw, zw, ww], dim=-1)
    largest = squares.argmax(dim=-1, keepdim=True).unsqueeze(-1)  # [..., 1, 1]
    rows = rows.unflatten(-1, (4, 4))
    quaternion = rows.gather(-2, largest.expand(*largest.shape[:-1], 4)).squeeze(-2)
    quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    return torch.cat([motion[..., :3, 3], normalize(quaternion, dim=-1)], dim=-1)


def identity(*shape: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
    """Poses that change nothing, [*shape, 7]."""
    pose = torch.zeros(*shape, 7, dtype=dtype, device=device)
    pose[..., 6].fill_(1)
    return pose


def _parts(pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Translation [..., 3], unit quaternion's vector [..., 3] and scalar [..., 1]."""
    translation, quaternion = pose.split((3, 4), dim=-1)
    vector, scalar = normalize(quaternion, dim=-1).split((3, 1), dim=-1)
    return translation, vector, scalar


def _rotate(vector: Tensor, scalar: Tensor, v: Tensor) -> Tensor:
    """v turned by a unit quaternion: v + 2 (s (q x v) + q x (q x v))."""
    turned = _cross(vector, v)
    return v + 2 * (scalar * turned + _cross(vector, turned))


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """a x b, for any numbers of leading axes (torch.linalg.cross wants the same number)."""
    return torch.linalg.cross(*torch.broadcast_tensors(a, b))


def _angle(squared: Tensor) -> Tensor:
    """Square root, never zero: one may divide by it, and its derivative at zero is 0, not inf."""
    return torch.sqrt(squared.clamp_min(torch.finfo(squared.dtype).tiny ** 0.5))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Sum of coefficients[k] x^k."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
