"""The normalised Gaussian kernel against features that are normalised by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import kernels as sk

import dkp
from dkp.gram.gram import Gram, Inputs
from dkp.kernels import Affine, Linear, NormalisedGaussian

X = np.random.default_rng(0).normal(size=(6, 3))
NORMS = np.linalg.norm(X, axis=1)


def test_against_the_squared_exponential_of_unit_vectors():
    kernel = NormalisedGaussian(variance=1.7)(Linear()(Inputs(i=jnp.asarray(X)))).ii
    reference = 1.7 * np.outer(NORMS, NORMS) / 3 * sk.RBF(1.0)(X / NORMS[:, None])
    np.testing.assert_allclose(kernel, reference, rtol=1e-13)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_it_is_homogeneous(factor):
    gram, kernel = X @ X.T, NormalisedGaussian(variance=1.7)
    scaled = kernel(Gram(ii=jnp.asarray(factor * gram))).ii
    np.testing.assert_allclose(scaled, factor * kernel(Gram(ii=jnp.asarray(gram))).ii, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_point_of_no_variance(dtype):
    kernel, zero, two = (
        NormalisedGaussian(variance=jnp.asarray(1.7, dtype)),
        jnp.zeros((), dtype),
        jnp.asarray(2, dtype),
    )
    gradients = [
        jax.grad(kernel.evaluate, argnums=(0, 1, 2))(zero, *variances)
        for variances in ((zero, two), (zero, zero))
    ]
    assert kernel.evaluate(zero, zero, two) == 0
    assert kernel.evaluate_diagonal(zero) == 0
    assert np.all(np.isfinite(gradients))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("cosine", [-1.0, -0.3, 0.0, 0.9, 1.0])
def test_the_derivative_is_that_of_the_formula(cosine, dtype):
    kernel, kxx, kyy = (
        NormalisedGaussian(variance=jnp.asarray(1.7, dtype)),
        jnp.asarray(1, dtype),
        jnp.asarray(4, dtype),
    )
    kxy = jnp.asarray(2 * cosine, dtype)
    slope = jax.jvp(lambda k: kernel.evaluate(k, kxx, kyy), (kxy,), (jnp.ones_like(kxy),))[1]
    for value in (slope, kernel.derivative(kxy, kxx, kyy)):
        np.testing.assert_allclose(
            value, 1.7 * np.exp(cosine - 1), rtol=4 * float(jnp.finfo(dtype).eps)
        )
    np.testing.assert_allclose(kernel.derivative_diagonal(kyy), 1.7, rtol=1e-6)


def test_the_tangent_kernel_of_a_network_with_it():
    gram = X @ X.T / 3
    cosine = gram / np.outer(NORMS, NORMS) * 3
    slope = 1.7 * np.exp(cosine - 1)
    nngp = 0.5 * np.outer(NORMS, NORMS) / 3 * slope + 0.1
    truth = nngp + 0.5 * slope * gram
    layers = [Affine(), NormalisedGaussian(variance=1.7), Affine(0.5, 0.1)]
    np.testing.assert_allclose(dkp.ntk_kernel(layers, X), truth, rtol=1e-12)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("inf")])
def test_values_outside_the_domain(variance):
    with pytest.raises(
        ValueError, match=r"NormalisedGaussian\(variance=…\) to be finite and positive"
    ):
        NormalisedGaussian(variance=variance)
