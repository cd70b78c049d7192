"""Alignment of Gram matrices: how much of one is in another."""

import jax.numpy as jnp

from dkp._core.types import Array, Float

__all__ = ["centred_alignment"]


def centred_alignment(
    features: Float[Array, "N M"], labels: Float[Array, "N C"]
) -> Float[Array, ""]:
    """Centred alignment of the Gram matrices K = F F^T and Y Y^T, in [0, 1], without forming them.

        <HKH, HYY^TH> / (||HKH|| ||HYY^TH||) = ||F_c^T Y_c||^2 / (||F_c^T F_c|| ||Y_c^T Y_c||),
        H = I - 11^T / N

    Args:
        features: F, (N, M), not constant over rows.
        labels: Y, (N, C), not constant over rows.

    Source: Cortes, Mohri & Rostamizadeh 2012 (JMLR 13), definition 4.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.gram.alignment import centred_alignment
        >>> labels = jnp.array([[0.0], [1.0], [2.0]])
        >>> print(f"{centred_alignment(jnp.eye(3), labels):.3f}")
        0.707
    """
    f, y = (a - jnp.mean(a, axis=0, keepdims=True) for a in (features, labels))
    return jnp.sum((f.T @ y) ** 2) / (jnp.linalg.norm(f.T @ f) * jnp.linalg.norm(y.T @ y))
