"""Warm-up: windows in which chains find the typical set, their step size and the metric.

In whitened coordinates the posterior covariance is the identity but for the directions that the
data inform, which are few: the metric is a diagonal and a correction of low rank. It is estimated
from the draws and the gradients of a window, of all chains together, so that the Fisher divergence
between the posterior and a normal law is smallest. Where a window has fewer draws than twice the
number of coordinates, an estimate would be mostly noise and the metric stays that of the prior:
with 1000 coordinates and 250 draws a learned one doubled the step size and halved the smallest
effective sample size.

Source: windows: Stan Development Team, Reference Manual, section on adaptation; metric: Seyboldt,
Carlson & Carpenter 2026 (arXiv 2603.18845), algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.types import Float
from dkp.inference.markov.transitions import Metric

__all__ = ["Window", "estimate_metric", "metric_rank", "schedule"]

_FIRST, _LAST = 0.15, 0.15  # shares of warm-up before the first metric and after the last
_SHORTEST = 20
_RANK = 32


class Window(NamedTuple):
    """Transitions of warm-up.

    Attributes:
        length: how many there are.
        learns: whether the metric is estimated from them at their end.
    """

    length: int
    learns: bool


def schedule(warmup: int) -> list[Window]:
    """Windows of a warm-up of so many transitions.

    They are a first one for the step size, ever longer ones that learn the metric, and a last one
    for the step size in the last metric.
    """
    first, last = int(_FIRST * warmup), int(_LAST * warmup)
    windows, left, length = [Window(first, False)], warmup - first - last, _SHORTEST
    while left > 0:
        # the last one takes what would be too short for another
        length = left if left < 3 * length else length
        windows.append(Window(length, True))
        left, length = left - length, 2 * length
    return [w for w in (*windows, Window(last, False)) if w.length > 0]


def metric_rank(warmup: int, chains: int, size: int) -> int:
    """Rank of the correction of the metric.

    It is 0 where no window has the draws to learn a metric of `size` coordinates.
    """
    return (
        min(_RANK, size) if any(_is_enough(w.length, chains, size) for w in schedule(warmup)) else 0
    )


def _is_enough(length: int, chains: int, size: int) -> bool:
    return chains * (length - length // 2) >= 2 * size


def estimate_metric(
    draws: Float[np.ndarray, "C T K"], gradients: Float[np.ndarray, "C T K"], rank: int
) -> Metric | None:
    """The metric from the second half of a window of all chains.

    It is None where the window has too few draws, or some that are no numbers.

    Args:
        rank: largest rank of the correction.
    """
    from blackjax.adaptation.metric_estimators import fisher_score_low_rank

    chains, length, size = draws.shape
    if not (
        _is_enough(length, chains, size)
        and np.all(np.isfinite(draws))
        and np.all(np.isfinite(gradients))
    ):
        return None
    x, g = (jnp.asarray(a[:, length // 2 :].reshape(-1, size)) for a in (draws, gradients))
    return Metric(*jax.jit(fisher_score_low_rank, static_argnames="max_rank")(x, g, max_rank=rank))
