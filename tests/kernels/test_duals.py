"""Kernels of activations against E[phi(u) phi(v)] and E[phi'(u) phi'(v)] by quadrature and by Monte
Carlo.

A new kernel is one more row of the table.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dkp.gram.gram import Gram
from dkp.kernels import (
    ELU,
    GELU,
    ABReLU,
    Abs,
    Activation,
    ArcCosine,
    Cosine,
    Erf,
    Exponential,
    Gaussian,
    Identity,
    LeakyReLU,
    Monomial,
    Polynomial,
    RectifiedMonomial,
    ReLU,
    Repeat,
    Scale,
    Sign,
    Sine,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel, its phi and phi'; `tolerance` is for the series of Activation, which ends."""

    kernel: Any
    phi: Callable
    slope: Callable | None  # None where phi jumps
    factor: float = 1.0
    tolerance: float = 1e-12


def step(x):
    return np.heaviside(x, 0.5)


def powers(n):
    return lambda x: x**n, lambda x: n * x ** max(n - 1, 0)


def rectified_powers(n):
    return lambda x: step(x) * x**n, (lambda x: step(x) * n * x ** (n - 1)) if n else None


def lines(a, b):
    return lambda x: np.where(x > 0, b * x, a * x), lambda x: a + (b - a) * step(x)


def tanh_slope(x):
    return 1 / np.cosh(x) ** 2


QUARTIC = np.polynomial.Polynomial([0.3, -1.0, 0.0, 0.5, 0.2])
CASES = [
    Case(ArcCosine(0), *rectified_powers(0), factor=2),
    Case(ArcCosine(1), *rectified_powers(1), factor=2),
    Case(ArcCosine(2), *rectified_powers(2), factor=2),
    *(Case(RectifiedMonomial(n), *rectified_powers(n)) for n in (0, 3, 6)),
    Case(ReLU(), *lines(0, 1)),
    Case(LeakyReLU(0.1), *lines(0.1, 1)),
    Case(ABReLU(-0.4, 1.5), *lines(-0.4, 1.5)),
    Case(Abs(), *lines(-1, 1)),
    Case(Sign(), np.sign, None),
    Case(Identity(), *powers(1)),
    *(Case(Monomial(n), *powers(n)) for n in (0, 1, 2, 5)),
    Case(Polynomial(QUARTIC.coef), QUARTIC, QUARTIC.deriv()),
    Case(Erf(), special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x)),
    Case(
        GELU(), lambda x: x * stats.norm.cdf(x), lambda x: stats.norm.cdf(x) + x * stats.norm.pdf(x)
    ),
    Case(
        ELU(),
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
    Case(Gaussian(), lambda x: np.exp(-x * x / 2), lambda x: -x * np.exp(-x * x / 2)),
    Case(Exponential(), np.exp, np.exp),
    Case(Sine(), np.sin, np.cos),
    Case(
        Sine(1.3, 0.7, 0.4),
        lambda x: 1.3 * np.sin(0.7 * x + 0.4),
        lambda x: 0.91 * np.cos(0.7 * x + 0.4),
    ),
    Case(Cosine(), np.cos, lambda x: -np.sin(x)),
    Case(
        Cosine(1.3, 0.7, 0.4),
        lambda x: 1.3 * np.cos(0.7 * x + 0.4),
        lambda x: -0.91 * np.sin(0.7 * x + 0.4),
    ),
    Case(Activation(jnp.sin), np.sin, np.cos),
    Case(Activation(jnp.tanh, terms=256), np.tanh, tanh_slope, tolerance=1e-10),
]

# (cosine, k_xx, k_yy)
INSIDE = np.array(
    [(0.2, 1.0, 2.0), (-0.9, 0.5, 1.8), (0.0, 1.0, 1.0), (0.5, 1e-6, 2.0), (0.7, 4.0, 3.0)]
)
NEAR_THE_ENDS = np.array([(0.9999, 1.3, 0.95), (-0.9999, 1.0, 1.0), (1 - 1e-9, 1.0, 1.0)])
# (k_xy, k_xx, k_yy) whose cosine is exact in floating point
ENDS = np.array(
    [
        (2.0, 1.0, 4.0),
        (-2.0, 1.0, 4.0),
        (1.0, 1.0, 1.0),
        (0.0, 0.0, 2.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0),
    ]
)
VARIANCES = np.array([1e-8, 0.3, 1.0, 4.0])

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.kernel))
dtypes = pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])


def covariances():
    """All of them as rows k_xy, k_xx, k_yy: first those inside, then those near the ends, then the
    ends."""
    cosine, kxx, kyy = np.concatenate([INSIDE, NEAR_THE_ENDS]).T
    return np.concatenate([np.stack([cosine * np.sqrt(kxx * kyy), kxx, kyy]), ENDS.T], axis=1)


def beyond_the_ends(dtype):
    """Perfect correlation and rounding, then variances whose inverse overflows."""
    eps, tiny = (float(value) for value in (jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny))
    rounded = [(2 + 8 * eps, 1, 4), (-2 - 8 * eps, 1, 4), (1 - eps, 1, 1), (eps - 1, 1, 1)]
    minute = [
        (tiny, tiny, tiny),
        (0, tiny, 1),
        (tiny / 4, tiny / 4, tiny / 4),
        (tiny**0.5 / 2, tiny, 1),
    ]
    return np.array(rounded + minute, dtype).T


@functools.cache
def rule(pieces, low, high):
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(low, high, pieces + 1)
    widths = np.diff(edges)[:, None]
    return (edges[:-1, None] + widths * (nodes + 1) / 2).ravel(), (widths * weights / 2).ravel()


def by_quadrature(f, cosine, kxx, kyy):
    """E[f(u) f(v)] in polar coordinates u = x r cos(p), v = y r cos(p - t): smooth between the
    angles of u v = 0."""
    t = np.arccos(cosine)
    r, r_weights = rule(12, 0.0, 18.0)
    radial, total = r_weights * r * np.exp(-r * r / 2) / (2 * np.pi), 0.0
    for start, size in (
        (-np.pi / 2, t),
        (t - np.pi / 2, np.pi - t),
        (np.pi / 2, t),
        (t + np.pi / 2, np.pi - t),
    ):
        p, p_weights = rule(6, 0.0, 1.0)
        p = start + size * p
        values = f(np.sqrt(kxx) * np.outer(np.cos(p), r)) * f(
            np.sqrt(kyy) * np.outer(np.cos(p - t), r)
        )
        total += size * p_weights @ values @ radial
    return total


def truth(f):
    """E[f(u) f(v)] at all covariances, and its scale, the root of the product of the two
    diagonals."""
    kxy, kxx, kyy = covariances()
    product = np.where(kxx * kyy > 0, kxx * kyy, 1)
    cosine = np.concatenate(
        [INSIDE[:, 0], NEAR_THE_ENDS[:, 0], (kxy / np.sqrt(product))[-len(ENDS) :]]
    )
    values = np.array([by_quadrature(f, *row) for row in zip(cosine, kxx, kyy, strict=True)])
    moments = {s: by_quadrature(f, 1.0, s, s) for s in {*kxx, *kyy}}
    return values, np.array(
        [np.sqrt(moments[a] * moments[b]) for a, b in zip(kxx, kyy, strict=True)]
    )


@jax.jit  # once for each kernel, dtype and number of covariances
def values(kernel, kxy, kxx, kyy):
    return kernel.evaluate(kxy, kxx, kyy), kernel.derivative(kxy, kxx, kyy)


@jax.jit
def diagonals(kernel, kxx):
    return kernel.evaluate_diagonal(kxx), kernel.derivative_diagonal(kxx)


@jax.jit
def gradients(kernel, *covariance):
    def sums(*covariance):
        return [
            jnp.sum(value)
            for value in (kernel.evaluate(*covariance), kernel.derivative(*covariance))
        ]

    return jax.jacrev(sums, argnums=(0, 1, 2))(*covariance)


def arrays(rows, dtype=jnp.float64):
    return tuple(jnp.asarray(row, dtype) for row in rows)


def assert_within(got, expected, tolerance):
    np.testing.assert_array_less(np.abs(got - expected), tolerance + 1e-15)  # where the scale is 0


@all_cases
def test_expectation_by_quadrature(case):
    expected, scale = truth(case.phi)
    got = values(case.kernel, *arrays(covariances()))[0]
    assert_within(got / case.factor, expected, case.tolerance * scale)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.slope], ids=lambda case: repr(case.kernel)
)
def test_expectation_of_slopes_by_quadrature(case):
    expected, scale = truth(case.slope)
    got = values(case.kernel, *arrays(covariances()))[1]
    assert_within(got / case.factor, expected, case.tolerance * scale)


@all_cases
def test_diagonals_by_quadrature(case):
    square, slope = diagonals(case.kernel, jnp.asarray(VARIANCES))
    expected = [by_quadrature(case.phi, 1.0, s, s) for s in VARIANCES]
    np.testing.assert_allclose(square / case.factor, expected, rtol=case.tolerance)
    expected = [by_quadrature(case.slope, 1.0, s, s) if case.slope else 0.0 for s in VARIANCES]
    np.testing.assert_allclose(slope / case.factor, expected, rtol=case.tolerance)


@all_cases
def test_diagonal_is_the_value_at_perfect_correlation(case):
    on_diagonal = values(case.kernel, *arrays([VARIANCES] * 3))[0]
    # sqrt(eps) for a step, whose slope is infinite there
    atol = 0 if case.slope else 3e-8
    np.testing.assert_allclose(
        on_diagonal,
        diagonals(case.kernel, jnp.asarray(VARIANCES))[0],
        rtol=case.tolerance,
        atol=atol,
    )


@functools.cache
def draws():
    return np.random.default_rng(7).multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 2.0]], 200_000).T


@all_cases
def test_expectation_by_monte_carlo(case):
    # |z| > 5 happens by chance once in 1.7 million, in one of all the rows once in 50 thousand
    u, v = draws()
    got, slope = values(case.kernel, *arrays([[0.3], [1.0], [2.0]]))
    for f, value in ((case.phi, got), (case.slope, slope)):
        if f is not None:
            products = case.factor * f(u) * f(v)
            error = products.std() / np.sqrt(products.size)
            assert abs(products.mean() - value[0]) <= 5 * error + 1e-12


@pytest.mark.parametrize("kernel", [ArcCosine(0), RectifiedMonomial(0), Sign()], ids=repr)
def test_slope_of_a_jump_is_the_density_at_zero(kernel):
    jumps = {"Sign()": 4, "ArcCosine(order=0)": 2}.get(repr(kernel), 1)
    kxy, kxx, kyy = covariances()[:, : len(INSIDE)]
    density = 1 / (2 * np.pi * np.sqrt(kxx * kyy - kxy**2))
    np.testing.assert_allclose(
        values(kernel, *arrays((kxy, kxx, kyy)))[1], jumps * density, rtol=1e-12
    )
    np.testing.assert_array_equal(diagonals(kernel, jnp.asarray(VARIANCES))[1], 0)


@functools.cache
def everywhere(dtype):
    return arrays(np.concatenate([covariances(), beyond_the_ends(dtype)], axis=1), dtype)


@all_cases
@dtypes
@pytest.mark.rows(8)
def test_gradients_are_finite_everywhere(case, dtype):
    slopes, second = gradients(case.kernel, *everywhere(dtype))
    if case.slope is None:  # densities at 0 of minute variances, whose gradients are no numbers
        second = [block[:-4] for block in second]
    for block in (*values(case.kernel, *everywhere(dtype)), *slopes, *second):
        assert np.all(np.isfinite(block))


@all_cases
@pytest.mark.rows(8)
def test_gradients_are_finite_differences(case):
    covariance = np.array(everywhere(jnp.float64))
    inside = slice(0, len(INSIDE))
    got = np.array(gradients(case.kernel, *everywhere(jnp.float64)))[..., inside]
    for n in range(3):
        shift = np.zeros_like(covariance)
        shift[n] = 1e-6 * (covariance[n] if n else np.sqrt(covariance[1] * covariance[2]))
        above, below = (
            np.array(values(case.kernel, *arrays(covariance + s * shift)))[:, inside]
            for s in (1, -1)
        )
        # rounding of the values, and the third derivative
        atol = 1e-13 * np.max(np.abs(above))
        np.testing.assert_allclose(
            got[:, n] * 2 * shift[n, inside], above - below, rtol=1e-6, atol=atol
        )


@all_cases
@pytest.mark.rows(8)
def test_float32_is_float64(case):
    single = arrays(covariances()[:, : len(INSIDE)], jnp.float32)
    double = tuple(value.astype(jnp.float64) for value in single)
    for narrow, wide in zip(
        values(case.kernel, *single), values(case.kernel, *double), strict=True
    ):
        assert narrow.dtype == jnp.float32
        np.testing.assert_allclose(narrow, wide, rtol=5e-6, atol=5e-7 * np.max(np.abs(wide)))


@jax.jit
def blocks(kernel, ii, ti, tt):
    gram = kernel(Gram(ii=ii, ti=ti, tt=tt))
    return gram.ii, gram.ti, gram.tt


@all_cases
@pytest.mark.rows(8)
def test_gram_matrices_are_positive_semidefinite(case):
    x = np.random.default_rng(3).normal(size=(12, 3))
    x = np.concatenate([x, x[:1], -x[:1], x[:1] + 1e-5])
    gram = x @ x.T / 3
    ii, ti, tt = blocks(case.kernel, *arrays((gram, gram, np.diagonal(gram))))
    np.testing.assert_array_equal(ii, ii.T)
    np.testing.assert_allclose(np.diagonal(ii), tt, rtol=1e-14)
    off = ~np.eye(len(x), dtype=bool)
    np.testing.assert_allclose(ti[off], ii[off], rtol=1e-13, atol=1e-13 * np.max(tt))
    eigenvalues = np.linalg.eigvalsh(ii)
    assert eigenvalues[0] > -(1e-13 if case.slope else 1e-7) * len(x) * eigenvalues[-1]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_half_of_the_arc_cosine_is_the_rectified_monomial(order):
    half = values(ArcCosine(order, normalised=False), *arrays(covariances()))
    np.testing.assert_array_equal(values(RectifiedMonomial(order), *arrays(covariances())), half)
    np.testing.assert_allclose(
        np.multiply(2, half), values(ArcCosine(order), *arrays(covariances())), rtol=1e-15
    )


def test_second_order_arc_cosine_has_three_times_the_square_on_the_diagonal():
    np.testing.assert_array_equal(
        ArcCosine(2).evaluate_diagonal(jnp.asarray(VARIANCES)), 3 * VARIANCES**2
    )


def test_fifty_layers_in_float32_are_those_in_float64():
    x = np.random.default_rng(0).normal(size=(12, 3))
    x = np.concatenate([x, x[:2], x[2:4] + 1e-3, -x[4:5]]).astype(np.float32)
    gram = x.astype(float) @ x.astype(float).T / 3
    deep = Repeat([ReLU(), Scale(Identity(), scale=2.0)], depth=50)
    narrow, wide = (
        deep(Gram(ii=jnp.asarray(gram, jnp.float32))).ii,
        deep(Gram(ii=jnp.asarray(gram))).ii,
    )
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)


@pytest.mark.parametrize(
    "kernel", [Sine(), Cosine(0.3), Erf(), Gaussian(), GELU(), ELU(), LeakyReLU(0.2)], ids=repr
)
def test_large_variances_are_finite(kernel):
    kxy = 1e4 * jnp.asarray([1.0, 0.999, 0.0, -1.0], jnp.float32)
    kxx = jnp.full_like(kxy, 1e4)
    for value in (*values(kernel, kxy, kxx, kxx), *diagonals(kernel, kxx)):
        assert np.all(np.isfinite(value))


def test_axes_of_length_one_are_broadcast():
    kxy, kxx, kyy = arrays(
        (0.1 * np.arange(6).reshape(2, 3), np.array([[1.0], [2.0]]), np.array([[1.0, 1.5, 2.0]]))
    )
    for kernel in (ArcCosine(0), ArcCosine(2), Monomial(3), GELU(), Activation(jnp.sin, terms=9)):
        full = values(kernel, *jnp.broadcast_arrays(kxy, kxx, kyy))
        np.testing.assert_allclose(values(kernel, kxy, kxx, kyy), full, rtol=1e-14, atol=1e-15)
        one = values(kernel, kxy[:1, :1], kxx, kyy)
        assert one[0].shape == one[1].shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RectifiedMonomial(-1),
            r"RectifiedMonomial\(degree\) to be an integer from 0 to 100. Got -1",
        ),
        (lambda: Monomial(True), r"Monomial\(degree\) to be an integer from 0 to 100. Got True"),
        (lambda: Polynomial([]), r"Polynomial\(coefficients\) to hold at least one number"),
        (lambda: Polynomial([1.0, np.nan]), r"Polynomial\(coefficients\) to be finite"),
        (lambda: Polynomial(np.ones(102)), r"of degree 100 at most. Got degree 101"),
        (lambda: LeakyReLU(np.inf), r"LeakyReLU\(slope=…\) to be finite and real"),
        (lambda: Sine(b="fast"), r"Sine\(b=…\) to be finite and real"),
        (lambda: Activation(jnp.log), r"to be finite for .* Got .* which is not at"),
        (lambda: Activation(jax.nn.softmax), r"elementwise .* depends on the others"),
        (lambda: Activation(jnp.cumsum), r"elementwise .* depends on the others"),
        (lambda: Activation(jnp.sum), r"elementwise .* which gives \(\)"),
        (lambda: Activation(lambda u: u > 0), r"elementwise .* bool"),
        (lambda: Activation(math.tanh), r"elementwise .* which raises"),
        (
            lambda: Activation(jnp.tanh, terms=0),
            r"Activation\(terms=…\) to be an integer of at least 1",
        ),
        (lambda: Activation(jnp.tanh, terms=300), r"Activation\(terms=…\) to be 256 at most"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        make()
