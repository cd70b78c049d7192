"""Training through a bottleneck: against wide real networks, gradient flow of weights, invariants
and limits."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from dkp import kernels
from dkp.theory import bottleneck_dynamics as dynamics

RNG = np.random.default_rng(0)
N, D, DIM, STEP = 6, 3, 2, 0.05
X, NEW = RNG.normal(size=(N, D)), RNG.normal(size=(2, D))
Y = np.sign(RNG.normal(size=N))
START = RNG.normal(size=(D, DIM))


def function_space(activation, steps, step=STEP):
    g, new = X @ START / np.sqrt(D), NEW @ START / np.sqrt(D)
    return dynamics.train(
        activation,
        jnp.asarray(X @ X.T / D),
        jnp.asarray(g),
        jnp.asarray(Y),
        step=step,
        steps=steps,
        new_kernel=jnp.asarray(NEW @ X.T / D),
        new_bottleneck=jnp.asarray(new),
    )


def real_network(phi, width, steps, seed=0):
    """Outputs at X and NEW, and g at X, of two networks that start equal and are subtracted,
    divided by sqrt 2, behind one linear g."""
    rng = np.random.default_rng(seed)
    w, v = jnp.asarray(rng.normal(size=(DIM, width))), jnp.asarray(rng.normal(size=width))
    parameters = {"u": jnp.asarray(START), "w": jnp.stack([w, w]), "v": jnp.stack([v, v])}

    def network(p, x):
        hidden = phi(jnp.einsum("nd,sdw->snw", x @ p["u"] / np.sqrt(D), p["w"]) / np.sqrt(DIM))
        both = jnp.einsum("snw,sw->sn", hidden, p["v"]) / np.sqrt(width)
        return (both[0] - both[1]) / np.sqrt(2)

    def loss(p):
        return jnp.sum((network(p, jnp.asarray(X)) - jnp.asarray(Y)) ** 2) / 2

    @jax.jit
    def step(p, _):
        seen = (
            network(p, jnp.asarray(np.concatenate([X, NEW]))),
            jnp.asarray(X) @ p["u"] / np.sqrt(D),
        )
        return jax.tree.map(lambda a, g: a - STEP * g, p, jax.grad(loss)(p)), seen

    return jax.lax.scan(step, parameters, None, length=steps + 1)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "phi"),
    [(kernels.Erf(), jax.scipy.special.erf), (kernels.ReLU(), jax.nn.relu)],
    ids=["erf", "relu"],
)
def test_a_network_of_width_8192_does_the_same(activation, phi):
    """Within 5% of the range of outputs, and of how far g moves, over 150 steps."""
    outputs, bottleneck = real_network(phi, 8192, 150)
    found = function_space(activation, 150)
    ours = np.concatenate([found.outputs, found.new_outputs], axis=1)
    assert np.abs(ours - outputs).max() < 0.05 * np.ptp(ours)
    moved = np.linalg.norm(found.bottleneck[-1] - found.bottleneck[0])
    assert moved > 0.2 * np.linalg.norm(found.bottleneck[0])
    assert np.linalg.norm(found.bottleneck[-1] - bottleneck[-1]) < 0.08 * moved


def test_the_first_steps_by_hand():
    """f_0 = 0, so g_1 = g_0, and F_1 = eta Theta_f y at the start."""
    found = function_space(kernels.Erf(), 2)
    g = X @ START / np.sqrt(D)
    a = np.sum(g**2, axis=1) / DIM
    c = g @ g.T / DIM
    root = np.sqrt(np.outer(1 + 2 * a, 1 + 2 * a))
    theta = 2 / np.pi * np.arcsin(2 * c / root) + c * 4 / np.pi / np.sqrt(root**2 - 4 * c**2)
    np.testing.assert_allclose(found.outputs[0], 0)
    np.testing.assert_allclose(found.bottleneck[1], found.bottleneck[0])
    np.testing.assert_allclose(found.outputs[1], STEP * theta @ Y, rtol=1e-8)
    assert found.loss[0] == pytest.approx(N / 2)


def test_a_frozen_bottleneck_is_kernel_regression():
    """Without a kernel of g nothing moves in it, and descent is linear: F_t = (I - (I - eta
    Theta)^t) y."""
    g = jnp.asarray(X @ START / np.sqrt(D))
    found = dynamics.train(kernels.Erf(), jnp.zeros((N, N)), g, jnp.asarray(Y), step=STEP, steps=40)
    theta = np.asarray(dynamics._tangent_kernel(kernels.Erf(), g, g))
    decay = np.linalg.matrix_power(np.eye(N) - STEP * theta, 40)
    np.testing.assert_allclose(found.outputs[-1], Y - decay @ Y, rtol=1e-8)
    np.testing.assert_array_equal(found.bottleneck[-1], found.bottleneck[0])
    assert function_space(kernels.Erf(), 40).loss[-1] < found.loss[-1]


def test_steps_above_the_critical_one_are_told():
    g = jnp.asarray(X @ START / np.sqrt(D))
    critical = 2 / np.linalg.eigvalsh(dynamics._tangent_kernel(kernels.Erf(), g, g))[-1]
    options = {"kernel": jnp.eye(N), "bottleneck": g, "y": jnp.asarray(Y), "steps": 1}
    with pytest.warns(RuntimeWarning, match=f"above the critical one, {critical:.4g}"):
        dynamics.train(kernels.Erf(), step=1.01 * critical, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dynamics.train(kernels.Erf(), step=0.99 * critical, **options)


# --- gradient flow --------------------------------------------------------------------------------


def flowing(activation, time, steps):
    g, new = X @ START / np.sqrt(D), NEW @ START / np.sqrt(D)
    return dynamics.flow(
        activation,
        jnp.asarray(X @ X.T / D),
        jnp.asarray(g),
        jnp.asarray(Y),
        time=time,
        steps=steps,
        new_kernel=jnp.asarray(NEW @ X.T / D),
        new_bottleneck=jnp.asarray(new),
    )


@pytest.mark.parametrize(
    ("activation", "fine", "tolerance"),
    [(kernels.Erf(), 100, 2e-4), (kernels.ReLU(), 320, 6e-4)],
    ids=["erf", "relu"],
)
def test_descent_with_small_steps_goes_to_the_flow(activation, fine, tolerance):
    """Errors of descent are proportional to its step: extrapolated descent is where the flow is."""
    time, end = 2.0, []
    for steps in (200, 400):
        found = function_space(activation, steps, step=time / steps)
        end.append(
            np.concatenate(
                [found.outputs[-1], found.new_outputs[-1], np.ravel(found.bottleneck[-1])]
            )
        )
    found = flowing(activation, time, fine)
    ours = np.concatenate(
        [found.outputs[-1], found.new_outputs[-1], np.ravel(found.bottleneck[-1])]
    )
    assert np.abs(end[1] - end[0]).max() > 1.5 * tolerance
    np.testing.assert_allclose(ours, 2 * end[1] - end[0], atol=tolerance)


def test_errors_of_the_flow_are_of_second_order():
    coarse, fine, finest = (
        flowing(kernels.Erf(), 2.0, steps).new_outputs[-1] for steps in (20, 40, 160)
    )
    ratio = np.linalg.norm(coarse - finest) / np.linalg.norm(fine - finest)
    assert 3.2 < ratio < 5  # measured 3.7, to be 4.2 against 160 steps


def test_a_frozen_flow_is_kernel_regression():
    """Without a kernel of g the flow is linear: F_t = (I - exp(-t Theta)) y."""
    g = jnp.asarray(X @ START / np.sqrt(D))
    found = dynamics.flow(kernels.Erf(), jnp.zeros((N, N)), g, jnp.asarray(Y), time=3.0, steps=400)
    theta = np.asarray(dynamics._tangent_kernel(kernels.Erf(), g, g))
    np.testing.assert_allclose(found.outputs[-1], Y - linalg.expm(-3.0 * theta) @ Y, atol=1e-4)
    np.testing.assert_array_equal(found.bottleneck[-1], found.bottleneck[0])


# --- the linear case ------------------------------------------------------------------------------


def linear(d=3, norm=1.5, **options):
    rng = np.random.default_rng(1)
    x, beta = rng.normal(size=(8, 5)), rng.normal(size=5)
    y = x @ beta * norm / np.linalg.norm(beta)
    u0, w0 = rng.normal(size=(d, 5)), rng.normal(size=d)
    return x, y, dynamics.linear_flow(x, y, u0, w0, **{"time": 2.0, "steps": 2000} | options)


def test_the_invariant_does_not_change():
    _, _, found = linear()
    invariant = np.einsum("ta,tb->tab", found.w, found.w) - np.einsum(
        "tai,tbi->tab", found.u, found.u
    )
    np.testing.assert_allclose(invariant, np.broadcast_to(invariant[0], invariant.shape), atol=1e-7)
    assert np.linalg.norm(found.w[-1] - found.w[0]) > 0.3


def test_beta_follows_its_equation():
    x, y, found = linear()
    h = found.times[1]
    for t in (1, 500, 1500):
        m = x.T @ (x @ found.beta[t] - y)
        kernel = found.u[t].T @ found.u[t] + found.w[t] @ found.w[t] * np.eye(5)
        np.testing.assert_allclose(
            (found.beta[t + 1] - found.beta[t - 1]) / (2 * h),
            -2 / found.u[t].size * kernel @ m,
            rtol=1e-3,
            atol=1e-5,
        )
    assert found.loss[-1] < 0.05 * found.loss[0]


def test_wide_bottlenecks_have_a_constant_kernel():
    """|beta - beta*| falls as exp(-4 t) on whitened data."""
    rng, d = np.random.default_rng(0), 20_000
    x, y = np.sqrt(4) * np.eye(4), rng.normal(size=4)
    found = dynamics.linear_flow(
        x, y, rng.normal(size=(d, 4)), rng.normal(size=d), time=1.0, steps=200
    )
    np.testing.assert_allclose(found.loss / found.loss[0], np.exp(-8 * found.times), rtol=0.1)


def test_small_bottlenecks_accelerate_large_targets_and_slow_small_ones():
    """Of one start, D = 20: 0.50 and 1.66 at d = 1, 0.82 and 1.06 at d = 100."""
    large, small = (
        [dynamics.acceleration(d, norm, repeats=4) for d in (1, 100)] for norm in (3.0, 1.0)
    )
    assert large[0] < 0.7 < large[1] < 1
    assert small[0] > 1.2 and small[0] > small[1] > 0.95
    assert dynamics.acceleration(np.inf, 3.0) == 1


def trained(kernel, **options):
    return dynamics.train(kernels.Erf(), kernel, jnp.ones((3, 1)), jnp.ones(3), steps=1, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: function_space(kernels.Erf(), 0), "steps"),
        (lambda: trained(jnp.eye(2), step=0.1), "kernel of"),
        (lambda: trained(jnp.eye(3), step=0.0), "step"),
        (lambda: trained(jnp.eye(3), step=0.1, new_kernel=jnp.ones((1, 3))), "both new_kernel"),
        (
            lambda: trained(
                jnp.eye(3), step=0.1, new_kernel=jnp.ones((1, 2)), new_bottleneck=jnp.ones((1, 1))
            ),
            "shapes",
        ),
        (lambda: linear(time=-1.0), "time"),
        (lambda: flowing(kernels.Erf(), 0.0, 10), "time"),
        (lambda: flowing(kernels.Erf(), 1.0, 0), "steps"),
        (
            lambda: dynamics.linear_flow(
                np.ones((2, 3)), np.ones(2), np.ones((1, 2)), np.ones(1), time=1.0
            ),
            "u0",
        ),
        (lambda: dynamics.acceleration(3, 1.0, fraction=1.0), "fraction"),
        (lambda: dynamics.acceleration(0, 1.0), "width"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
