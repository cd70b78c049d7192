"""Convolutional layers as kernels: sums of K(x, y) over equal shifts of both locations.

Images are (N, H, W, C). A filter of k x l taps averages the kernel over its offsets,
K'(r, s) = (1 / kl) sum_d K(r + d, s + d), where taps outside of the image count as zeros. Offsets
along the two axes of an image separate, so a filter costs k + l shifted additions instead of k l.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.checks import one_of, positive_int
from dkp._core.description import hyperparameter
from dkp._core.types import Array
from dkp.gram.pairs import Pairs, same_location
from dkp.kernels.base import Kernel
from dkp.kernels.dense import check_parametrisation, trained

__all__ = ["AvgPool", "Conv", "Flatten", "GlobalAvgPool", "LocallyConnected"]

PADDINGS = ("SAME", "VALID", "CIRCULAR")


class Conv(Kernel):
    """K'(r, s) = weight_var / |filter| sum_d K(r + d, s + d) + bias_var: a convolution.

    Its channels are infinitely many.

    The tangent kernel is T' = K' + weight_var / |filter| sum_d T(r + d, s + d).

    Args:
        filter_shape: (height, width), or one number for both.
        strides: the same.
        padding: "SAME" (zeros around the image), "VALID" (none) or "CIRCULAR".
        weight_var: variance of the weights times |filter| times the channels, positive.
        bias_var: variance of the biases, nonnegative.
        parametrisation: as in :class:`Affine`.
        width: number of channels that enter; the standard parametrisation needs it.

    Raises:
        ValueError: for another padding, sizes that are not positive integers, images that shrink to
            nothing, vectors where images are needed, or numbers outside their domain.

    Source: Novak et al. 2019 (arXiv 1810.05148), equation 7; Arora et al. 2019 (arXiv 1904.11955),
    section 4.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> images = np.arange(8.0).reshape(2, 2, 2, 1)
        >>> layers = [kernels.Linear(), kernels.Conv(3), kernels.Flatten()]
        >>> print(nngp_kernel(layers, images).round(3))
        [[ 1.556  4.222]
         [ 4.222 14.   ]]
    """

    filter_shape: Any
    strides: Any = (1, 1)
    padding: str = "SAME"
    weight_var: Any = hyperparameter(default=1.0)
    bias_var: Any = hyperparameter(default=0.0, domain="nonnegative")
    parametrisation: str = "ntk"
    width: int | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "filter_shape", _two(f"{name}(filter_shape=…)", self.filter_shape))
        object.__setattr__(self, "strides", _two(f"{name}(strides=…)", self.strides))
        one_of(f"{name}(padding=…)", self.padding, PADDINGS)
        check_parametrisation(name, self.parametrisation, self.width)
        self.check_hyperparameters()

    def pairs(self, block: Pairs) -> Pairs:
        _check_images(self, block)
        average = functools.partial(
            _average_over_taps,
            sizes=self.filter_shape,
            strides=self.strides,
            padding=self.padding,
            together=True,
        )
        return trained(self, block.everywhere(average), taps=math.prod(self.filter_shape))


class LocallyConnected(Conv):
    """A convolution without shared weights: K' and T' of :class:`Conv` at r = s, and 0 elsewhere.

    Arguments and errors as for :class:`Conv`.

    Source: Novak et al. 2019 (arXiv 1810.05148), section 5.1.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> images = np.arange(8.0).reshape(2, 2, 2, 1)
        >>> layers = [kernels.Linear(), kernels.LocallyConnected(3), kernels.Flatten()]
        >>> print(nngp_kernel(layers, images).round(3))
        [[ 1.556  4.222]
         [ 4.222 14.   ]]
    """

    def pairs(self, block: Pairs) -> Pairs:
        shared = super().pairs(block)
        if not block.has_all_locations:
            return shared
        return shared.everywhere(_same_location_only)


class AvgPool(Kernel):
    """K'(r, s) = mean over offsets d, e of K(r + d, s + e): average pooling.

    The tangent kernel is averaged in the same way.

    Taps outside of the image ("SAME") count as zeros.

    Args:
        window: (height, width), or one number for both.
        strides: the same; the window by default.
        padding: "VALID", "SAME" or "CIRCULAR".

    Raises:
        ValueError: as for :class:`Conv`.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> images = np.arange(8.0).reshape(2, 2, 2, 1)
        >>> layers = [kernels.Linear(), kernels.AvgPool(2), kernels.Flatten()]
        >>> print(nngp_kernel(layers, images).round(3))
        [[ 2.25  8.25]
         [ 8.25 30.25]]
    """

    window: Any
    strides: Any = None
    padding: str = "VALID"

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", _two("AvgPool(window=…)", self.window))
        strides = self.window if self.strides is None else _two("AvgPool(strides=…)", self.strides)
        object.__setattr__(self, "strides", strides)
        one_of("AvgPool(padding=…)", self.padding, PADDINGS)

    @property
    def pools(self) -> bool:
        return True

    def pairs(self, block: Pairs) -> Pairs:
        _check_images(self, block)
        average = functools.partial(
            _average_over_taps,
            sizes=self.window,
            strides=self.strides,
            padding=self.padding,
            together=False,
        )
        return block.everywhere(average)


class Flatten(Kernel):
    """All locations and channels as one vector: K' = (1 / |locations|) sum_r K(r, r).

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> images = np.arange(8.0).reshape(2, 2, 2, 1)
        >>> layers = [kernels.Linear(), kernels.Flatten()]
        >>> print(nngp_kernel(layers, images).round(3))
        [[ 3.5  9.5]
         [ 9.5 31.5]]
    """

    def pairs(self, block: Pairs) -> Pairs:
        _check_images(self, block)
        return block.everywhere(
            _mean_at_same_location if block.has_all_locations else _mean_over_locations
        )


class GlobalAvgPool(Kernel):
    """The mean over all locations: K' = (1 / |locations|^2) sum_r sum_s K(r, s).

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> images = np.arange(8.0).reshape(2, 2, 2, 1)
        >>> layers = [kernels.Linear(), kernels.GlobalAvgPool()]
        >>> print(nngp_kernel(layers, images).round(3))
        [[ 2.25  8.25]
         [ 8.25 30.25]]
    """

    @property
    def pools(self) -> bool:
        return True

    def pairs(self, block: Pairs) -> Pairs:
        _check_images(self, block)
        return block.everywhere(_mean_over_locations)


def _average_over_taps(
    k: Array, points: int, *, sizes: Any, strides: Any, padding: str, together: bool
) -> Array:
    """Mean over the taps of a filter, along H and W.

    `together` shifts both locations by the same offset.

    `points` is the number of axes before those of locations.
    """
    axes = list(range(points, k.ndim))
    per_side = len(axes) // 2
    for size, stride, group in zip(sizes, strides, (axes[:per_side], axes[per_side:]), strict=True):
        for shifted in [group] if together else [[axis] for axis in group]:
            k = _average_along(k, shifted, size, stride, padding)
    return k


def _average_along(k: Array, axes: list[int], size: int, stride: int, padding: str) -> Array:
    length = k.shape[axes[0]]
    count = (length - size) // stride + 1 if padding == "VALID" else -(-length // stride)
    if count < 1:
        raise ValueError(
            f"Expected images of at least {size} pixels along each axis that the filter covers. "
            f'Got {length}: use padding="SAME" or a smaller filter.'
        )
    if padding != "VALID":
        missing = max((count - 1) * stride + size - length, 0)
        widths = [(0, 0)] * k.ndim
        for axis in axes:
            widths[axis] = (missing // 2, missing - missing // 2)
        k = jnp.pad(k, widths, mode="wrap" if padding == "CIRCULAR" else "constant")
    stop = (count - 1) * stride + 1

    def tap(offset: int) -> Array:
        shifted = k
        for axis in axes:
            shifted = jax.lax.slice_in_dim(shifted, offset, offset + stop, stride, axis)
        return shifted

    return functools.reduce(operator.add, map(tap, range(size))) / size


def _mean_over_locations(k: Array, points: int) -> Array:
    return jnp.mean(k, axis=tuple(range(points, k.ndim)))


def _mean_at_same_location(k: Array, points: int) -> Array:
    return jnp.einsum("...hhww->...", k) / (k.shape[points] * k.shape[points + 2])


def _same_location_only(k: Array, points: int) -> Array:
    mask = same_location(k.shape[points], k.shape[points + 2])
    return jnp.where(mask.reshape((1,) * points + mask.shape), k, 0)


def _two(name: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"Expected {name} to be one integer, or two for height and width. Got {value!r}."
        )
    return positive_int(name, pair[0]), positive_int(name, pair[1])


def _check_images(layer: Kernel, block: Pairs) -> None:
    if block.xy.ndim == 2:
        raise ValueError(
            f"Expected {type(layer).__name__} to get images, features of shape (N, H, W, C), "
            "before any Flatten() or GlobalAvgPool(). Got vectors."
        )
