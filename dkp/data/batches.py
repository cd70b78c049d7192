"""Sources of minibatches."""

import dataclasses

import numpy as np

__all__ = ["Batches"]


@dataclasses.dataclass(frozen=True)
class Batches:
    """Row indices of the minibatches of every step.

    Each epoch is a fresh permutation, and step s always gets the same rows.

    Attributes:
        n: number of rows of the data.
        size: of a minibatch.
        seed: of the permutations.

    Examples:
        >>> from dkp.data.batches import Batches
        >>> Batches(n=10, size=4, seed=0).rows(0, 5).shape
        (5, 4)
    """

    n: int
    size: int
    seed: int

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of steps start … stop - 1, (stop - start, size)."""
        first, last = start * self.size, stop * self.size
        epochs = range(first // self.n, (last - 1) // self.n + 1)
        order = np.concatenate(
            [np.random.default_rng((self.seed, e)).permutation(self.n) for e in epochs]
        )
        offset = first - epochs[0] * self.n
        return order[offset : offset + last - first].reshape(-1, self.size).astype(np.int32)
