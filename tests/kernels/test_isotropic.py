"""Kernels of the squared distance against scikit-learn and scipy, and their limits at distance
0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gamma, kv
from sklearn.gaussian_process import kernels as sk

from dkp._core.description import Learn
from dkp.gram.gram import Gram, Inputs
from dkp.kernels import Linear, Matern, RationalQuadratic, SquaredExponential

X = np.random.default_rng(0).normal(size=(6, 3))
SMOOTH = [
    SquaredExponential,
    lambda **k: Matern(1.5, **k),
    lambda **k: Matern(2.5, **k),
    RationalQuadratic,
]


@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        (SquaredExponential(0.7, 1.5), 1.5 * sk.RBF(0.7)),
        (Matern(0.5, 0.7, 1.5), 1.5 * sk.Matern(0.7, nu=0.5)),
        (Matern(1.5, 0.7, 1.5), 1.5 * sk.Matern(0.7, nu=1.5)),
        (Matern(2.5, 0.7, 1.5), 1.5 * sk.Matern(0.7, nu=2.5)),
        (Matern(3.5, 0.7, 1.5), 1.5 * sk.Matern(0.7, nu=3.5)),
        (RationalQuadratic(1.9, 0.7, 1.5), 1.5 * sk.RationalQuadratic(0.7, alpha=1.9)),
    ],
    ids=repr,
)
def test_against_scikit_learn(kernel, reference):
    gram = Linear()(Inputs(i=jnp.asarray(X)))
    np.testing.assert_allclose(kernel(gram).ii, reference(X / np.sqrt(3)), rtol=1e-10)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, 3.5, 6.5])
def test_matern_is_a_bessel_function(nu):
    s = np.linspace(0.05, 8, 40)
    kernel = Matern(nu, lengthscale=2.0, variance=3.0)
    value = kernel.of_squared_distance(jnp.asarray(4 * s**2 / (2 * nu)))
    np.testing.assert_allclose(value, 3 * 2 ** (1 - nu) / gamma(nu) * s**nu * kv(nu, s), rtol=1e-12)


def test_rational_quadratic_tends_to_the_squared_exponential():
    r2 = jnp.linspace(0, 5, 20)
    limit = SquaredExponential(0.7, 1.5).of_squared_distance(r2)
    np.testing.assert_allclose(
        RationalQuadratic(1e9, 0.7, 1.5).of_squared_distance(r2), limit, rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("make", [*SMOOTH, lambda **k: Matern(0.5, **k)])
def test_the_diagonal_is_the_variance(make, dtype):
    kernel = make(variance=1.7)
    kernel = jax.tree.map(
        lambda leaf: jnp.asarray(getattr(leaf, "init", leaf), dtype),
        kernel,
        is_leaf=lambda node: isinstance(node, Learn),
    )
    gram = Linear()(Inputs(i=jnp.asarray(X, dtype)))
    diagonal = jnp.diagonal(gram.ii)
    mapped = kernel(Gram(ii=gram.ii, ti=gram.ii, tt=diagonal))
    for values in (jnp.diagonal(mapped.ii), jnp.diagonal(mapped.ti), mapped.tt):
        np.testing.assert_array_equal(values, np.full(6, 1.7, dtype))


@pytest.mark.parametrize("make", SMOOTH)
def test_the_slope_at_distance_zero_is_the_limit(make):
    # also where rounding made R negative: k_xy a little above the variances
    kernel = make(
        lengthscale=0.7, variance=1.5, **({"alpha": 1.0} if make is RationalQuadratic else {})
    )
    slope = jax.grad(lambda kxy: kernel.evaluate(kxy, jnp.ones(()), jnp.ones(())))
    limit = slope(jnp.asarray(1 - 1e-9))
    for kxy in (1.0, 1.0 + 1e-15):
        np.testing.assert_allclose(slope(jnp.asarray(kxy)), limit, rtol=1e-3)
    assert kernel.evaluate(jnp.asarray(1 + 1e-6), jnp.ones(()), jnp.ones(())) == 1.5


@pytest.mark.parametrize("nu", [0.0, 1.0, -0.5, 0.7, float("nan"), float("inf")])
def test_matern_takes_half_integers_only(nu):
    with pytest.raises(ValueError, match=r"Expected Matern\(nu"):
        Matern(nu)


@pytest.mark.parametrize("make", SMOOTH)
@pytest.mark.parametrize("name", ["lengthscale", "variance"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_values_outside_the_domain(make, name, value):
    with pytest.raises(ValueError, match=rf"{name}=…\) to be finite and positive"):
        make(**{name: value})
