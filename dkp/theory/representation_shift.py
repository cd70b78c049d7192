"""How far the posterior moves the kernels of a wide deep linear network.

First order in 1 / n, relative to their prior means.

Weights are N(0, 1) in the NTK parametrisation, the likelihood Gaussian with precision beta. With
G_xx = X X^T / n_0, G_yy = Y Y^T / n_d and Gamma = G_xx + I / beta,

    E[K_l | Y] = K_l + (sum_j<=l n_d / n_j) K_l Phi K_l + O(1 / n^2),
    Phi = Gamma^-1 (G_yy - Gamma) Gamma^-1

Source: Zavatone-Veth, Canatar, Ruben & Pehlevan 2021 (arXiv 2106.00651).
"""

import functools
from collections.abc import Sequence

import numpy as np

from dkp._core import checks
from dkp._core.types import Float
from dkp.theory._checks import gram_matrix, locations_gram, positive_widths
from dkp.theory._shifts import mean_over_shifts

__all__ = ["conv_posterior_grams", "posterior_grams"]


def posterior_grams(
    gxx: Float[np.ndarray, "P P"],
    gyy: Float[np.ndarray, "P P"],
    widths: Sequence[int],
    n_outputs: int,
    beta: float,
) -> Float[np.ndarray, "L P P"]:
    """E[K_l | Y] of the hidden layers of a fully connected deep linear network, to first order.

    Args:
        gxx: X X^T / n_0, positive semi-definite.
        gyy: Y Y^T / n_d, positive semi-definite.
        widths: n_1, …, n_L.
        n_outputs: n_d.
        beta: precision of the noise.

    Raises:
        ValueError: for matrices that are not positive semi-definite or differ in size, and numbers
            that are not positive.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory import representation_shift
        >>> gxx, gyy = np.eye(2), np.diag([4.0, 1.0])
        >>> grams = representation_shift.posterior_grams(gxx, gyy, [10, 10], n_outputs=1, beta=10.0)
        >>> print(grams[0].round(3))
        [[1.24  0.   ]
         [0.    0.992]]
    """
    gxx = gram_matrix("gxx", gxx)
    shift = gxx @ _phi(gxx, gyy, beta) @ gxx
    return gxx[None] + _shares(widths, n_outputs)[:, None, None] * shift[None]


def conv_posterior_grams(
    gxx: Float[np.ndarray, "P S P S"],
    gyy: Float[np.ndarray, "P P"],
    widths: Sequence[int],
    n_outputs: int,
    beta: float,
    filter_size: int,
) -> Float[np.ndarray, "L P S P S"]:
    """The same for convolutional layers on a circle of S locations.

    A dense layer of the flattened features follows.

    With A the mean over the D shifts of a filter, as in
    :func:`dkp.theory.deep_linear.conv_gram_moments`, the prior mean of K_l is A^l(gxx), the outputs
    have the kernel Gxx_ij = mean_r K_L,(i,r),(j,r), and

        E[K_l | Y] = A^l(gxx) + sum_j<=l (n_d / n_j) A^(l - j)(C_j W_j C_j),   C_j = A^j(gxx)

    where W_j is the adjoint of A, L - j times, applied to Phi_ij delta_rs / S. It is the prior
    covariance of K_l and the outputs' kernel, to first order, times the slope of the
    log-likelihood.

    Args:
        gxx: Gram matrix of P data at S locations, divided by the number of input channels.
        widths: n_1, …, n_L: channels.
        filter_size: D, at most S, centred.
        gyy: as in :func:`posterior_grams`.
        n_outputs: as there.
        beta: as there.

    Raises:
        ValueError: as there, and for shapes or filters that do not fit.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory import representation_shift
        >>> gxx, gyy = np.ones((1, 3, 1, 3)), np.array([[4.0]])
        >>> grams = representation_shift.conv_posterior_grams(gxx, gyy, [10], 1, 10.0, 3)
        >>> print(grams[0, 0, 0, 0, 0].round(3))
        1.24
    """
    p, s = np.shape(gxx)[:2]
    k = locations_gram("gxx", gxx)
    forward = functools.partial(mean_over_shifts, n_data=p, n_locations=s, filter_size=filter_size)
    backward = functools.partial(forward, adjoint=True)
    depth, n = len(widths), positive_widths("widths", widths)
    scales = [k := forward(k) for _ in range(depth)]
    outputs = np.einsum("irjr->ij", scales[-1].reshape(p, s, p, s)) / s
    weight = np.einsum("ij,rs->irjs", _phi(outputs, gyy, beta), np.eye(s) / s).reshape(p * s, p * s)
    weights = [weight]
    for _ in range(depth - 1):
        weights.insert(0, backward(weights[0]))
    share = checks.positive_int("n_outputs", n_outputs) / n
    shift, found = np.zeros_like(k), []
    for scale, weight, part in zip(scales, weights, share, strict=True):
        shift = forward(shift) + part * scale @ weight @ scale
        found.append((scale + shift).reshape(p, s, p, s))
    return np.stack(found)


def _phi(gxx: np.ndarray, gyy: np.ndarray, beta: float) -> np.ndarray:
    gyy = gram_matrix("gyy", gyy)
    checks.same_shape("gxx", gxx, "gyy", gyy)
    gamma = gxx + np.eye(len(gxx)) / checks.positive_number("beta", beta)
    return np.linalg.solve(gamma, np.linalg.solve(gamma, gyy - gamma).T)


def _shares(widths: Sequence[int], n_outputs: int) -> np.ndarray:
    """sum_j<=l n_d / n_j for each l."""
    return checks.positive_int("n_outputs", n_outputs) * np.cumsum(
        1 / positive_widths("widths", widths)
    )
