"""Whitening and augmentation of features and images, before a kernel sees them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.types import Array, Float, PRNGKeyArray

__all__ = ["ZCA", "random_flips", "random_shifts", "zca"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZCA:
    """A fitted whitening x -> (x - mean) W; make it with :func:`zca`.

    Attributes:
        mean: (d,), where d counts all numbers of a point, such as H W C of an image.
        matrix: W, (d, d), symmetric.

    Examples:
        >>> import numpy as np
        >>> from dkp.data.preprocessing import zca
        >>> whitening = zca(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]]))
        >>> whitening.matrix.shape
        (2, 2)
    """

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "d d"]

    def apply(self, x: Any) -> Float[np.ndarray, "N *space D"]:
        """Whitened points, in the shape of x and in float64.

        Raises:
            ValueError: when a point of x does not have d finite numbers.
        """
        values = checks.features("x", x)
        flat = values.reshape(len(values), -1)
        if flat.shape[1] != len(self.mean):
            raise ValueError(
                f"Expected points of {len(self.mean)} numbers, as in training. Got {flat.shape[1]}."
            )
        return ((flat - self.mean) @ self.matrix).reshape(values.shape)


def zca(x: Any, eps: float = 0.1) -> ZCA:
    """Fit regularised ZCA whitening to training points.

    With the covariance C = (x - mean)^T (x - mean) / N = U diag(l) U^T of the d numbers of a point,

        W = U diag((l_i + eps tr(C) / d)^(-1/2)) U^T.

    Among all whitenings this one stays closest to the data. `eps` is relative to the mean
    eigenvalue: 0 whitens fully, and for large values W is a multiple of the identity.

    Args:
        x: (N, D), or images (N, H, W, channels).
        eps: at least 0; above 0 where there are fewer points than numbers.

    Raises:
        ValueError: for anything else, for constant data, or for ``eps=0`` where the covariance is
            singular.

    Source: Bell & Sejnowski 1997, *Vision Research* 37(23); regularised as in Lee et al. 2020
    (arXiv 2007.15801).

    Examples:
        >>> import numpy as np
        >>> from dkp.data.preprocessing import zca
        >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
        >>> print(zca(x, eps=0.0).apply(x).round(3) + 0.0)
        [[ 1.414  0.   ]
         [-1.414  0.   ]
         [ 0.     1.414]
         [ 0.    -1.414]]
    """
    values, eps = checks.features("x", x), checks.nonnegative_number("eps", eps)
    flat = values.reshape(len(values), -1)
    mean = flat.mean(axis=0)
    variances, directions = np.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    shifted = variances + eps * variances.mean()
    noise = np.finfo(float).eps * len(mean) * variances[-1]
    if variances[-1] <= 0 or shifted[0] <= noise:
        raise ValueError(
            "Expected the regularised covariance to be positive definite. "
            f"Got a smallest eigenvalue of {shifted[0]:.1e} from {len(flat)} points of "
            f"{len(mean)} numbers: raise eps."
        )
    return ZCA(mean=mean, matrix=(directions / np.sqrt(shifted)) @ directions.T)


def random_flips(key: PRNGKeyArray, images: Array) -> Float[Array, "N H W C"]:
    """Each image mirrored left to right with probability 1/2.

    Raises:
        ValueError: when `images` are not (N, H, W, C).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from dkp.data.preprocessing import random_flips
        >>> random_flips(jax.random.key(0), jnp.zeros((2, 4, 4, 1))).shape
        (2, 4, 4, 1)
    """
    _check_images(images)
    flipped = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_shifts(key: PRNGKeyArray, images: Array, pixels: int = 4) -> Float[Array, "N H W C"]:
    """Each image moved by up to `pixels` along both axes, uniformly; what enters at the edges is 0.

    Raises:
        ValueError: when `pixels` is not a positive integer, or `images` are not (N, H, W, C).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from dkp.data.preprocessing import random_shifts
        >>> random_shifts(jax.random.key(0), jnp.zeros((2, 4, 4, 1)), pixels=1).shape
        (2, 4, 4, 1)
    """
    _check_images(images)
    reach = checks.positive_int("pixels", pixels)
    widths = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * reach + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], jnp.zeros_like(corner[0])), images.shape[1:]
        )

    return jax.vmap(crop)(jnp.pad(images, widths), corners)


def _check_images(images: Array) -> None:
    if jnp.ndim(images) != 4:
        raise ValueError(f"Expected images of shape (N, H, W, C). Got shape {jnp.shape(images)}.")
