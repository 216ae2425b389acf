"""Rigid motions: group laws, series near zero, derivatives, against closed forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from megasam_server.geometry import se3  # noqa: E402

component = st.floats(-2, 2, allow_subnormal=False)
triple = st.tuples(component, component, component)
# From nothing over the ends of the series to just below half a turn.
angle = st.one_of(
    st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 1e-3, 0.499, 0.5, 0.501, 3.1]), st.floats(0, 3.1)
)


@st.composite
def twists(draw) -> torch.Tensor:
    """[6] float64, of any translation, axis and angle below half a turn."""
    axis = np.array(draw(triple))
    length = np.linalg.norm(axis)
    axis = axis / length if length > 1e-3 else np.array([0, 0, 1.0])
    return torch.tensor([*draw(triple), *(draw(angle) * axis)], dtype=torch.float64)


def hat(twist: torch.Tensor) -> torch.Tensor:
    """The 4x4 matrix whose matrix exponential is the motion."""
    tau, phi = twist.split(3)
    x, y, z = phi
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, tau[0], z, zero, -x, tau[1], -y, x, zero, tau[2], *[zero] * 4]
    return torch.stack(rows).view(4, 4)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(twists())
def test_exp_is_the_matrix_exponential(twist):
    close(se3.matrix(se3.exp(twist)), torch.linalg.matrix_exp(hat(twist)), 1e-13)


@settings(max_examples=60, deadline=None)
@given(twists())
def test_log_undoes_exp(twist):
    close(se3.log(se3.exp(twist)), twist, 1e-11)


@settings(max_examples=40, deadline=None)
@given(twists())
def test_float32_keeps_its_digits(twist):
    """Where the quotients of the closed form lose them, too."""
    single = twist.float()
    pose = se3.exp(single)
    assert pose.dtype == torch.float32
    close(pose.double(), se3.exp(single.double()), 1e-6)
    # Near half a turn the logarithm itself is ill conditioned in the translation.
    if single[3:].norm() < 2.5:
        close(se3.log(pose).double(), single.double(), 4e-6)


@settings(max_examples=40, deadline=None)
@given(twists(), twists(), twists())
def test_group_laws(first, second, third):
    a, b = se3.exp(first), se3.exp(second)
    close(se3.matrix(se3.compose(a, b)), se3.matrix(a) @ se3.matrix(b))
    close(se3.matrix(se3.relative(a, b)), se3.matrix(se3.compose(a, se3.inverse(b))))
    close(se3.matrix(se3.inverse(a)), torch.linalg.inv(se3.matrix(a)))
    close(se3.matrix(se3.retract(a, third)), se3.matrix(se3.exp(third)) @ se3.matrix(a))
    # T Exp(xi) T^-1 = Exp(Ad xi), and the transpose is the transpose.
    turned = se3.compose(se3.compose(a, se3.exp(third)), se3.inverse(a))
    close(se3.matrix(se3.exp(se3.adjoint(a, third))), se3.matrix(turned))
    close(
        torch.dot(se3.adjoint_transpose(a, second), third), torch.dot(second, se3.adjoint(a, third))
    )
    close(se3.adjoint_matrix(se3.matrix(a)) @ third, se3.adjoint(a, third))


@settings(max_examples=60, deadline=None)
@given(twists())
def test_pose_of_a_matrix(twist):
    motion = se3.matrix(se3.exp(twist))
    pose = se3.from_matrix(motion)
    close(se3.matrix(pose), motion)
    assert pose[6] >= 0


@pytest.mark.parametrize("axis", range(3))
def test_pose_of_half_a_turn(axis):
    """Where the trace is -1 and qw vanishes."""
    motion = -torch.eye(4, dtype=torch.float64)
    motion[axis, axis] = motion[3, 3] = 1
    pose = se3.from_matrix(motion)
    close(se3.matrix(pose), motion)
    close(se3.log(pose)[3 + axis].abs(), torch.tensor(torch.pi, dtype=torch.float64))


def test_the_shorter_way_round_and_any_length_of_quaternion():
    twist = torch.tensor([0.3, -0.1, 0.2, 0.4, 0.5, -0.6], dtype=torch.float64)
    pose = se3.exp(twist)
    flipped = torch.cat([pose[:3], -3 * pose[3:]])
    close(se3.log(flipped), twist)
    close(se3.matrix(flipped), se3.matrix(pose))


def test_points_at_infinity_are_only_turned():
    pose = se3.exp(torch.tensor([1.0, 2, 3, 0.1, 0.2, 0.3]))
    point = torch.tensor([1.0, -1, 2, 0])
    torch.testing.assert_close(se3.act(pose, point), se3.matrix(pose) @ point)


def test_leading_axes_broadcast():
    poses = se3.exp(torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0)))
    points = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert se3.act(poses, points).shape == (4, 5, 4)
    assert se3.compose(poses, se3.identity(5)).shape == (4, 5, 7)
    torch.testing.assert_close(se3.compose(poses, se3.identity(5))[:, 3], poses[:, 0])


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 0.7])
def test_derivatives_against_finite_differences(scale):
    """Also at the identity and across the end of the series."""
    generator = torch.Generator().manual_seed(3)
    twist = scale * torch.randn(2, 6, generator=generator, dtype=torch.float64)
    other = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    covector = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    points = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (twist, other, covector, points))

    def everything(twist, other, covector, points):
        pose = se3.exp(twist)
        moved = se3.retract(pose, other)
        return (
            se3.log(pose),
            se3.log(se3.inverse(moved)),
            se3.adjoint(pose, covector),
            se3.adjoint_transpose(moved, covector),
            se3.act(moved, points),
            se3.from_matrix(se3.matrix(moved)),
        )

    assert torch.autograd.gradcheck(everything, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_at_the_identity_is_exact(dtype):
    """d log(exp(xi)) / d xi = 1, where the closed form is 0/0."""
    jacobian = torch.autograd.functional.jacobian(
        lambda xi: se3.log(se3.exp(xi)), torch.zeros(6, dtype=dtype)
    )
    torch.testing.assert_close(jacobian, torch.eye(6, dtype=dtype))


def test_float32_sees_a_small_turn_in_the_translation():
    """By half the angle; (1 - cos) / angle^2 would have an error of several per cent here."""
    twist = torch.tensor([1.0, 0, 0, 0, 0, 1e-3])
    exact = se3.exp(twist.double())
    assert (se3.exp(twist)[1].double() - exact[1]).abs() < 1e-10
