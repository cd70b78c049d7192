"""What a kernel is: a map from Gram to Gram.

Most kernels are *pointwise*: an elementwise function of (k_xy, k_xx, k_yy). Such a class writes two functions,
``evaluate`` and ``evaluate_diagonal``, and works on every block. Kernels of infinitely wide layers are expectations
E[phi(u) phi(v)]; their derivatives in k_xy are E[phi'(u) phi'(v)], which neural tangent kernels need.
"""

import jax
import jax.numpy as jnp

from dkp._spec import Spec
from dkp._types import Array
from dkp.linalg.blocks import Gram, Inputs

__all__ = ["InputKernel", "Kernel", "PointwiseKernel"]


class Kernel(Spec):
    """A deterministic map of Gram matrices."""

    def __call__(self, gram: Gram) -> Gram:
        """The kernel matrix K(G), block by block."""
        raise NotImplementedError


class InputKernel(Spec):
    """A kernel over features: it may stand first in a list of layers, and only there."""

    def __call__(self, inputs: Inputs) -> Gram:
        """The first Gram matrix, from features."""
        raise NotImplementedError


class PointwiseKernel(Kernel):
    """A kernel that is an elementwise function of (k_xy, k_xx, k_yy)."""

    def evaluate(self, kxy: Array, kxx: Array, kyy: Array) -> Array:
        """k'(x, y) from k(x, y), k(x, x), k(y, y), elementwise; axes of length 1 are broadcast."""
        raise NotImplementedError

    def evaluate_diagonal(self, kxx: Array) -> Array:
        """k'(x, x) from k(x, x), elementwise and exact."""
        raise NotImplementedError

    def derivative(self, kxy: Array, kxx: Array, kyy: Array) -> Array:
        """dk'(x, y) / dk(x, y) at fixed variances, elementwise; axes of length 1 are broadcast.

        For k' = E[phi(u) phi(v)] it is E[phi'(u) phi'(v)] (Price 1958).
        """
        kxy = jnp.broadcast_to(kxy, jnp.broadcast_shapes(kxy.shape, kxx.shape, kyy.shape))
        return jax.jvp(lambda kxy: self.evaluate(kxy, kxx, kyy), (kxy,), (jnp.ones_like(kxy),))[1]

    def derivative_diagonal(self, kxx: Array) -> Array:
        """The derivative where y is x, elementwise: E[phi'(u)^2]. A class overrides it where rounding matters."""
        return self.derivative(kxx, kxx, kxx)

    def __call__(self, gram: Gram) -> Gram:
        diagonal = gram.ii_diagonal
        ii = self.evaluate(gram.ii, diagonal[:, None], diagonal[None, :])
        ii = _with_diagonal(ii, self.evaluate_diagonal(diagonal))
        if gram.ti is None or gram.tt is None:
            return Gram(ii=ii)
        ti = self.evaluate(gram.ti, gram.tt[:, None], diagonal[None, :])
        return Gram(ii=ii, ti=ti, tt=self.evaluate_diagonal(gram.tt))


def _with_diagonal(matrix: Array, diagonal: Array) -> Array:
    on_diagonal = jnp.eye(matrix.shape[0], dtype=bool)
    return jnp.where(on_diagonal, diagonal[:, None], matrix)
