"""What a kernel is: a map from Gram to Gram.

Most kernels are *pointwise*: an elementwise function of (k_xy, k_xx, k_yy). Such a class writes two
functions, ``evaluate`` and ``evaluate_diagonal``, and works on every block. Kernels of infinitely
wide layers are expectations E[phi(u) phi(v)]; their derivatives in k_xy are E[phi'(u) phi'(v)],
which neural tangent kernels need.
"""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dkp._core.description import Spec
from dkp._core.types import Array
from dkp.gram.gram import Gram, Inputs
from dkp.gram.pairs import Features, Pairs, location_variances, same_location

__all__ = ["InputKernel", "Kernel", "PointwiseKernel", "apply"]


def apply(kernel: Any, block: Any) -> Pairs:
    """``kernel.pairs(block)``; outside of ``jit`` a composite's parts are programs of their own.

    Within one program XLA would fuse a layer into each of its uses in the next one, and compute it
    anew there: on a processor, deep convolutional networks then take five times as long.
    """
    return kernel.pairs(block) if kernel.is_composite else _program(kernel, block)


@jax.jit
def _program(kernel: Any, block: Any) -> Pairs:
    return kernel.pairs(block)


class Kernel(Spec):
    """A deterministic map to Gram matrices.

    It maps a Gram matrix, or features where it ``takes_features``. A subclass writes :meth:`pairs`,
    for one block; the rest follows.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> from dkp.gram import Gram
        >>> print(kernels.Affine(weight_var=2.0)(Gram(ii=jnp.eye(2))).ii)
        [[2. 0.]
         [0. 2.]]
    """

    is_composite: ClassVar[bool] = False

    @property
    def takes_features(self) -> bool:
        """Whether it acts on features: it may then stand first in a list of layers, and only
        there."""
        return False

    @property
    def pools(self) -> bool:
        """Whether it mixes covariances between different locations of images."""
        return False

    @abc.abstractmethod
    def pairs(self, block: Any) -> Pairs:
        """The kernel, and with it the tangent kernel, between two sets of points.

        Args:
            block: the :class:`~dkp.gram.pairs.Pairs` of the layer below; the
                :class:`~dkp.gram.pairs.Features` where the kernel ``takes_features``.
        """

    def __call__(self, argument: Gram | Inputs) -> Gram:
        """The kernel matrix, block by block: K(G) of a Gram matrix, or the first one.

        The first one is that of features.
        """
        return (
            self._of_inputs(argument) if isinstance(argument, Inputs) else self._of_gram(argument)
        )

    def between(
        self, x: Array, y: Array, equal: Array | None = None, *, tangent: bool = False
    ) -> Pairs:
        """The kernel between points of features x (M, …) and y (N, …), which must end as vectors.

        Args:
            x: features, (M, D), or images.
            y: the same for N points.
            equal: where a point of y is that point of x, (M, N); its kernel is then exactly its
                variance.
            tangent: compute the tangent kernel as well.

        Raises:
            ValueError: when images have not become vectors.
        """
        pools = self.pools and x.ndim == 4
        pairs = self.pairs(Features(x=x, y=y, equal=equal, tangent=tangent, all_locations=pools))
        if pairs.xy.ndim != 2:
            raise ValueError(
                "Expected Flatten() or GlobalAvgPool() to make vectors of the images. Got neither: "
                "add one."
            )
        return pairs

    def _of_gram(self, gram: Gram) -> Gram:
        variances = gram.ii_diagonal
        itself = jnp.eye(gram.ii.shape[0], dtype=bool)
        ii = self.pairs(Pairs(xy=gram.ii, xx=variances, yy=variances, tangent=None, equal=itself))
        if gram.ti is None or gram.tt is None:
            return Gram(ii=ii.xy)
        ti = self.pairs(Pairs(xy=gram.ti, xx=gram.tt, yy=variances, tangent=None, equal=None))
        return Gram(ii=ii.xy, ti=ti.xy, tt=ti.xx)

    def _of_inputs(self, inputs: Inputs) -> Gram:
        ii = self.between(inputs.i, inputs.i, jnp.eye(inputs.i.shape[0], dtype=bool))
        if inputs.t is None:
            return Gram(ii=ii.xy)
        ti = self.between(inputs.t, inputs.i)
        return Gram(ii=ii.xy, ti=ti.xy, tt=ti.xx)


class InputKernel(Kernel):
    """A kernel of features: where a list of layers starts.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> from dkp.gram import Inputs
        >>> print(kernels.Linear()(Inputs(i=jnp.eye(2))).ii)
        [[0.5 0. ]
         [0.  0.5]]
    """

    @property
    def takes_features(self) -> bool:
        return True


class PointwiseKernel(Kernel):
    """A kernel that is an elementwise function of (k_xy, k_xx, k_yy).

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> kxy, kxx, kyy = jnp.array(0.5), jnp.array(1.0), jnp.array(2.0)
        >>> print(f"{kernels.Erf().evaluate(kxy, kxx, kyy):.3f}")
        0.166
    """

    @abc.abstractmethod
    def evaluate(self, kxy: Array, kxx: Array, kyy: Array) -> Array:
        """k'(x, y) from k(x, y), k(x, x), k(y, y), elementwise; axes of length 1 are broadcast."""

    @abc.abstractmethod
    def evaluate_diagonal(self, kxx: Array) -> Array:
        """k'(x, x) from k(x, x), elementwise and exact."""

    def derivative(self, kxy: Array, kxx: Array, kyy: Array) -> Array:
        """dk'(x, y) / dk(x, y) at fixed variances, elementwise; axes of length 1 are broadcast.

        For k' = E[phi(u) phi(v)] it is E[phi'(u) phi'(v)] (Price 1958).
        """
        kxy = jnp.broadcast_to(kxy, jnp.broadcast_shapes(kxy.shape, kxx.shape, kyy.shape))
        return jax.jvp(lambda kxy: self.evaluate(kxy, kxx, kyy), (kxy,), (jnp.ones_like(kxy),))[1]

    def derivative_diagonal(self, kxx: Array) -> Array:
        """The derivative where y is x, elementwise: E[phi'(u)^2].

        A class overrides it where rounding matters.
        """
        return self.derivative(kxx, kxx, kxx)

    def pairs(self, block: Pairs) -> Pairs:
        kxx, kyy = block.variances()
        tangent = block.tangent
        if tangent is not None:
            slope = self.derivative(block.xy, kxx, kyy)
            tangent = tangent * block.on_diagonal(slope, self.derivative_diagonal(kxx))
        xy = self.evaluate(block.xy, kxx, kyy)
        result = block.replace(
            xy=xy, xx=self._own(block.xx), yy=self._own(block.yy), tangent=tangent
        )
        return result.replace(xy=result.on_diagonal(xy, result.variances()[0]))

    def _own(self, own: Array) -> Array:
        """K(x, x) of every point: variances, or covariances between the locations of one image."""
        if own.ndim < 5:
            return self.evaluate_diagonal(own)
        variances = location_variances(own)
        first, second = variances[:, :, None, :, None], variances[:, None, :, None, :]
        itself = same_location(own.shape[1], own.shape[3])[None]
        return jnp.where(itself, self.evaluate_diagonal(first), self.evaluate(own, first, second))
