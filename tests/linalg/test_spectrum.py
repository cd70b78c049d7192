"""Functions of a kernel matrix from its eigendecomposition, against dense linear algebra."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import dkp
from dkp import kernels
from dkp.linalg.spectrum import spectrum

RNG = np.random.default_rng(0)
A = RNG.normal(size=(8, 8))
K = A @ A.T / 8
Y = RNG.normal(size=(8, 2))


def test_functions_of_the_matrix():
    found = spectrum(jnp.asarray(K))
    np.testing.assert_allclose(found.matrix(jnp.exp(-found.values)), linalg.expm(-K), rtol=1e-12)
    inverse = np.linalg.inv(K + 0.1 * np.eye(8))
    weights = 1 / found.shifted(0.1)
    np.testing.assert_allclose(found.apply(weights, jnp.asarray(Y)), inverse @ Y, rtol=1e-10)
    np.testing.assert_allclose(found.diagonal_of(weights), np.diag(inverse), rtol=1e-10)
    np.testing.assert_allclose(found.mean_variance, np.trace(K) / 8, rtol=1e-13)


def test_eigenvalues_below_the_noise_are_raised_to_it():
    found = spectrum(jnp.asarray(np.ones((8, 8))))
    np.testing.assert_allclose(found.shifted(0.0)[:7], found.noise)
    np.testing.assert_allclose(found.shifted(0.5), [0.5] * 7 + [8.5])


@pytest.mark.parametrize("n", [50, 300])
def test_noise_is_the_size_of_the_errors_of_float32(n):
    """A smooth kernel's smallest eigenvalues are rounding errors; the estimate is within a factor
    20 above them."""
    x = np.linspace(-1, 1, n)[:, None]
    kernel = np.exp(-((x - x.T) ** 2) / 2).astype(np.float32)
    found = spectrum(jnp.asarray(kernel))
    # the true ones are below 1e-20
    error = np.max(np.abs(np.asarray(found.values, float)[: n // 2]))
    assert error <= float(found.noise) < 20 * error


def test_negative_eigenvalues_show_errors_of_the_entries():
    """Arc-cosine kernels of points that almost agree have larger errors in float32 than independent
    rounding."""
    x = np.random.default_rng(1).normal(size=(150, 5))
    x = np.concatenate([x, x + 1e-3 * np.random.default_rng(2).normal(size=x.shape)]).astype(
        np.float32
    )
    layers = [*[kernels.Affine(2.0), kernels.ReLU()] * 3, kernels.Affine()]
    found = spectrum(jnp.asarray(dkp.nngp_kernel(layers, x)))
    assert float(found.noise) >= -float(found.values[0]) > 0
    assert np.all(np.asarray(found.shifted(0.0)) > 0)
