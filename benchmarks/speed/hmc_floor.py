"""What a gradient of the `hmc` suite cannot do without.

Its Cholesky factorisations and matrix products, by themselves.

One factorisation a bottleneck and one for the outputs. Products, with A the Bartlett factor (N x
M), L the Cholesky factor of K, F = L A or L A^-1 and G = F F^T:

- derivative of a factorisation: L^-T P L^-1, two of N x N by N x N; for the outputs one, K^-1 =
  L^-T L^-1;
- a Wishart bottleneck of M < N: L A, F F^T, and in reverse G' F, L^T F' and (L^T F') A^T, with N x
  M matrices;
- an inverse Wishart bottleneck: the same five of N x N, and two for the derivative of A^-1.

Triangular inverses, kernels (elementwise) and the sampler's own vectors are not in the floor.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.speed.hmc_problem import WIDTH, Bottleneck

__all__ = ["factorisations", "floor", "products"]

_BOTTLENECKS = 2


def floor(bottleneck: Bottleneck, n: int) -> Callable[[], Any]:
    """All of them, one after another."""
    first, second = factorisations(n), products(bottleneck, n)
    return lambda: (first(), second())


def factorisations(n: int) -> Callable[[], Any]:
    """The Cholesky factorisations of well-conditioned matrices."""
    matrices = [
        jnp.eye(n) + _normal(i, n, n) @ _normal(i, n, n).T / n for i in range(_BOTTLENECKS + 1)
    ]
    run = jax.jit(
        lambda matrices: [jax.lax.linalg.cholesky(m, symmetrize_input=False) for m in matrices]
    )
    return lambda: jax.block_until_ready(run(matrices))


def products(bottleneck: Bottleneck, n: int) -> Callable[[], Any]:
    """The matrix products. Each needs the one before, so that none is left out or done beside
    another.
    """
    square = jnp.linalg.qr(_normal(0, n, n))[0]
    noise = _normal(1, n, WIDTH if bottleneck == "wishart" else n)
    more = 2 if bottleneck == "wishart" else 4

    @jax.jit
    def run(square: jax.Array, noise: jax.Array) -> jax.Array:
        found = square
        for _ in range(_BOTTLENECKS):
            factor = found @ noise
            gram = factor @ factor.T
            found = (square @ (gram @ factor)) @ noise.T
            for _ in range(more):
                found = found @ square
        return found @ square

    return lambda: jax.block_until_ready(run(square, noise))


def _normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)
