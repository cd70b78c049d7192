"""Orders of points, in which the first ones say the most about the others."""

import numpy as np

from dkp._core.types import Float, Int

__all__ = ["farthest_first"]


def farthest_first(x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
    """Rows in an order in which each is as far as can be from those before it.

    The distance is that to the nearest of them; the first row is the one farthest from the mean
    (Gonzalez 1985).

    Examples:
        >>> import numpy as np
        >>> from dkp.gram.order import farthest_first
        >>> print(farthest_first(np.array([[0.0], [1.0], [1.1], [5.0]])))
        [3 0 2 1]
    """
    order = [int(np.argmax(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))]
    nearest = np.full(len(x), np.inf)
    for _ in range(len(x) - 1):
        nearest = np.minimum(nearest, np.sum((x - x[order[-1]]) ** 2, axis=1))
        nearest[order[-1]] = -1.0
        order.append(int(np.argmax(nearest)))
    return np.asarray(order)
