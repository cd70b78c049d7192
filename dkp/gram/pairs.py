"""A rectangular block of kernel values between two sets of points.

Infinite networks compute them.

Vectors have one number a pair, K(x, y). Images have one for every pair of locations (r, s) that the
network needs: with ``Flatten`` at its end the same location of both images is enough, with pooling
all pairs are needed. The axes are

    vectors             xy: (M, N)                   xx: (M,)
    same locations      xy: (M, N, H, W)             xx: (M, H, W)
    all locations       xy: (M, N, H, H', W, W')     xx: (M, H, H', W, W')

so that a shift of both locations acts on neighbouring axes. Kernels see nothing but these records.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from dkp._core.record import static, value
from dkp._core.types import Array, Bool, Float

__all__ = ["Features", "Pairs"]


@value
class Features:
    """Features of the points x and y, with which a network starts.

    Attributes:
        x: (M, D), or images (M, H, W, C).
        y: the same for N points.
        equal: where a point of y is that point of x, (M, N), or None where none is.
        tangent: whether the tangent kernel is wanted.
        all_locations: whether covariances between different locations of images are.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> from dkp.gram.pairs import Features
        >>> x = jnp.array([[2.0, 0.0], [1.0, 1.0]])
        >>> features = Features(x=x, y=x, equal=None, tangent=False, all_locations=False)
        >>> print(kernels.Linear().pairs(features).xx)
        [2. 1.]
    """

    x: Float[Array, "M *space D"]
    y: Float[Array, "N *space D"]
    equal: Bool[Array, "M N"] | None
    tangent: bool = static()
    all_locations: bool = static()


@value
class Pairs:
    """K(x, y) of M and N points, with the variances that the next layer needs.

    Attributes:
        xy: K(x, y).
        xx: the variances K(x, x).
        yy: the variances K(y, y).
        tangent: the neural tangent kernel, of the shape of `xy`, or None.
        equal: where a point of y is that point of x, or None where none is; there, and at the same
            location, `xy` holds exactly the variance.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> from dkp.gram.pairs import Pairs
        >>> one = jnp.ones(2)
        >>> pairs = Pairs(xy=jnp.eye(2), xx=one, yy=one, tangent=None, equal=None)
        >>> print(kernels.ReLU().pairs(pairs).xx)
        [0.5 0.5]
    """

    xy: Float[Array, "M N *space"]
    xx: Float[Array, "M *own"]
    yy: Float[Array, "N *own"]
    tangent: Float[Array, "M N *space"] | None
    equal: Bool[Array, "M N"] | None

    @property
    def has_all_locations(self) -> bool:
        return self.xy.ndim == 6

    def variances(self) -> tuple[Array, Array]:
        """k_xx and k_yy, shaped to be broadcast against `xy`."""
        if self.has_all_locations:
            x, y = location_variances(self.xx), location_variances(self.yy)
            return x[:, None, :, None, :, None], y[None, :, None, :, None, :]
        return self.xx[:, None], self.yy[None]

    def on_diagonal(self, values: Array, variances: Array) -> Array:
        """`values`, of the shape of `xy`, with `variances` where a point meets itself.

        It does so at the same location.
        """
        if self.equal is None:
            return values
        mask = self.equal.reshape(self.equal.shape + (1,) * (values.ndim - 2))
        if self.has_all_locations:
            mask = mask & same_location(values.shape[2], values.shape[4])[None, None]
        return jnp.where(mask, variances, values)

    def everywhere(self, function: Callable[[Array, int], Array]) -> "Pairs":
        """A linear map of all of K(x, y), K(x, x), K(y, y) and the tangent kernel.

        Args:
            function: of an array and of the number of its axes of points, which come before those
                of locations.
        """
        tangent = None if self.tangent is None else function(self.tangent, 2)
        return self.replace(
            xy=function(self.xy, 2),
            xx=function(self.xx, 1),
            yy=function(self.yy, 1),
            tangent=tangent,
        )

    def replace(self, **changes: Array | None) -> "Pairs":
        return dataclasses.replace(self, **changes)


def location_variances(own: Float[Array, "M H H W W"]) -> Float[Array, "M H W"]:
    """K(x, x) at the same location."""
    return jnp.einsum("mhhww->mhw", own)


def same_location(height: int, width: int) -> Bool[Array, "H H W W"]:
    """Where both locations are the same one."""
    rows, columns = jnp.eye(height, dtype=bool), jnp.eye(width, dtype=bool)
    return rows[:, :, None, None] & columns[None, None]
