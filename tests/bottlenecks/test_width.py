"""Wide random networks in plain JAX approach their kernels, at the rate that theory says.

The empirical kernel of a network of width n has variance and bias of order 1/n (Dyer & Gur-Ari
2020, arXiv 1909.11304), so that its mean squared deviation from the limit is c/n + O(1/n^2). All
networks have three hidden layers."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import dkp
from dkp.kernels import Affine, Conv, Erf, Flatten, ReLU
from tests.support import relaxed

RNG = np.random.default_rng(0)
X, IMAGES = RNG.normal(size=(4, 5)), RNG.normal(size=(3, 4, 4, 2))
WEIGHT_VARS, BIAS_VAR = (2.0, 1.8, 2.1, 1.3), 0.1


def convolution(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@dataclasses.dataclass(frozen=True)
class Network:
    """phi between linear maps with weights of variance WEIGHT_VARS / fan-in and biases; then a
    dense readout."""

    kernel: Callable
    phi: Callable
    x: Any
    width: int
    taps: tuple[int, ...] = ()

    def layers(self, parametrisation):
        options: dict = {"bias_var": BIAS_VAR, "parametrisation": parametrisation}
        make, found = functools.partial(Conv, 3) if self.taps else Affine, []
        for variance, n in zip(
            WEIGHT_VARS[:3], (self.x.shape[-1], self.width, self.width), strict=True
        ):
            found += [make(weight_var=variance, width=n, **options), self.kernel()]
        flat = [Flatten()] if self.taps else []
        return [*found, *flat, Affine(WEIGHT_VARS[3], width=self.width, **options)]

    def standard_deviations(self):
        """Of the weights and biases of each layer, in their shapes."""
        locations = math.prod(self.x.shape[1:-1])
        shapes = [(*self.taps, n, self.width) for n in (self.x.shape[-1], self.width, self.width)]
        pairs = zip([*shapes, (locations * self.width, 1)], WEIGHT_VARS, strict=True)
        return [
            (
                np.full(s, math.sqrt(variance / math.prod(s[:-1])), np.float32),
                np.full(s[-1], np.float32(BIAS_VAR**0.5)),
            )
            for s, variance in pairs
        ]

    def features(self, hidden):
        """What the readout sees, one row a point."""
        h, apply = jnp.asarray(self.x, jnp.float32), convolution if self.taps else jnp.matmul
        for w, b in hidden:
            h = self.phi(apply(h, w) + b)
        return h.reshape(h.shape[0], -1)

    def covariance(self, normals):
        """Of the outputs, given all layers but the readout."""
        scales, unravel = ravel_pytree(self.standard_deviations())
        h = self.features(unravel(scales * normals)[:-1])
        return WEIGHT_VARS[3] / h.shape[1] * h @ h.T + BIAS_VAR

    def tangent_kernel(self, normals, parametrisation):
        """J J^T over what is trained: standard normal parameters, or the weights and biases
        themselves."""
        scales, unravel = ravel_pytree(self.standard_deviations())

        def outputs(parameters):
            *hidden, (w, b) = unravel(
                scales * parameters if parametrisation == "ntk" else parameters
            )
            return (self.features(hidden) @ w + b)[:, 0]

        jacobian = jax.jacrev(outputs)(normals if parametrisation == "ntk" else scales * normals)
        return jacobian @ jacobian.T

    def draws(self, function, n):
        size = sum(w.size + b.size for w, b in self.standard_deviations())
        keys = jax.random.split(jax.random.key(self.width), n)

        @jax.jit
        def each(keys):
            return jax.lax.map(
                lambda key: function(jax.random.normal(key, (size,), jnp.float32)), keys
            )

        with relaxed():
            return np.asarray(each(keys), float)


NETWORKS = {
    "ReLU": [Network(ReLU, jax.nn.relu, X, width) for width in (32, 64, 128, 256)],
    "Erf": [Network(Erf, jax.lax.erf, X, width) for width in (32, 64, 128, 256)],
    "convolutions": [
        Network(ReLU, jax.nn.relu, IMAGES, width, taps=(3, 3)) for width in (16, 32, 64)
    ],
}


def check_rate(widths, samples, limits):
    """The slope of the mean squared deviation in logarithms, and the limit without the error of
    order 1/n.

    The slope is -1 within 4.5 standard errors, which are below 0.1, and 0.1 for the term of order
    1/n^2. Of the two greatest widths, 2 mean(2n) - mean(n) has no bias of order 1/n: |z| < 4.5 on
    at most 10 numbers. Together, a false-alarm rate below 1e-4."""
    logs, errors, units = [], [], []
    for kernels, limit in zip(samples, limits, strict=True):
        norms = np.sqrt(np.diag(limit))
        units.append((kernels - limit) / np.outer(norms, norms))
        deviations = np.mean(units[-1] ** 2, axis=(1, 2))
        logs.append(np.log(deviations.mean()))
        errors.append(deviations.std() / deviations.mean() / np.sqrt(len(deviations)))
    x = np.log(widths) - np.mean(np.log(widths))
    slope, error = x @ logs / (x @ x), np.sqrt(x**2 @ np.square(errors)) / (x @ x)
    assert error < 0.1
    assert abs(slope + 1) < 4.5 * error + 0.1
    narrow, wide = units[-2:]
    error = np.sqrt((4 * wide.var(0) + narrow.var(0)) / len(wide))
    assert np.max(np.abs(2 * wide.mean(0) - narrow.mean(0)) / error) < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_covariances_of_wide_networks(name):
    networks = NETWORKS[name]
    limits = [dkp.nngp_kernel(network.layers("ntk"), network.x) for network in networks]
    samples = [network.draws(network.covariance, 500) for network in networks]
    check_rate([network.width for network in networks], samples, limits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parametrisation"),
    [("ReLU", "ntk"), ("Erf", "standard"), ("convolutions", "ntk")],
    ids=str,
)
def test_tangent_kernels_of_wide_networks(name, parametrisation):
    networks, samples = NETWORKS[name][:3], []
    limits = [dkp.ntk_kernel(network.layers(parametrisation), network.x) for network in networks]
    for network in networks:
        kernel = functools.partial(network.tangent_kernel, parametrisation=parametrisation)
        samples.append(network.draws(kernel, 500))
    check_rate([network.width for network in networks], samples, limits)
