"""The matrix generalised inverse Gaussian law.

It is the posterior of a network with one hidden layer.

MGIG(lambda, A, B) on positive definite matrices X of size P has the density, up to a constant,

    |X|^(lambda - (P + 1) / 2) exp(-tr(A X + B X^-1) / 2)

A deep linear network with N_1 hidden units and N_2 outputs has the exact posterior
K_1 | Y ~ MGIG((N_1 - N_2) / 2, N_1 K_0^-1, N_2 K_2), where K_2 = Y Y^T / N_2 and there is no noise.

Source: Barndorff-Nielsen, Blaesild, Jensen & Jorgensen 1982; posterior: derived from Aitchison 2020
(arXiv 1910.08013). The sampler uses the conditional laws of a Schur complement and its row, as in
Butler 1998.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from dkp._core import checks
from dkp._core.types import Float
from dkp.theory._checks import gram_matrix

__all__ = ["MatrixGIG", "MeanEstimate", "hidden_gram_posterior"]

_BATCHES = 20


class MeanEstimate(NamedTuple):
    """A mean by Markov chain Monte Carlo.

    Attributes:
        mean: of the states.
        standard_error: of each entry, from the means of 20 batches.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory.matrix_gig import MatrixGIG
        >>> estimate = MatrixGIG(1.0, np.eye(2), np.eye(2)).mean(seed=0, n=40)
        >>> estimate.mean.shape, estimate.standard_error.shape
        ((2, 2), (2, 2))
    """

    mean: Float[np.ndarray, "P P"]
    standard_error: Float[np.ndarray, "P P"]


class MatrixGIG:
    """MGIG(lambda, A, B); see above.

    Args:
        order: lambda.
        a: A, positive definite.
        b: B, positive definite.

    Raises:
        ValueError: for matrices that are not positive definite or differ in size, or an order that
            is not finite.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory.matrix_gig import MatrixGIG
        >>> law = MatrixGIG(1.0, np.eye(2), np.eye(2))
        >>> print(f"{law.log_density(np.eye(2)):.3f}")
        -2.000
    """

    def __init__(
        self, order: float, a: Float[np.ndarray, "P P"], b: Float[np.ndarray, "P P"]
    ) -> None:
        self.order = float(checks.finite_array("order", order, ndim=0))
        self.a, self.b = _definite("a", a), _definite("b", b)
        checks.same_shape("a", self.a, "b", self.b)

    @property
    def size(self) -> int:
        """P."""
        return len(self.a)

    def log_density(self, x: Float[np.ndarray, "P P"]) -> float:
        """log density of a positive definite matrix.

        It is up to a constant for P > 1, and normalised for P = 1.
        """
        x = _definite("x", x)
        log_det = 2 * np.sum(np.log(np.diag(np.linalg.cholesky(x))))
        value = (self.order - (self.size + 1) / 2) * log_det
        value -= (np.sum(self.a * x) + np.trace(np.linalg.solve(x, self.b))) / 2
        return float(value - self._log_constant())

    def sample(self, seed: int, n: int, *, warmup: int = 100) -> Float[np.ndarray, "N P P"]:
        """n successive states of a Gibbs sampler, after `warmup` sweeps, each over all rows.

        They are a chain whose law is this one. For P = 1 they are independent.

        With the row and column i apart, X = [[x, r^T], [r, D]], u = D^-1 r and s = x - r^T u, the
        laws are

            s | u, D ~ GIG(lambda - (P - 1) / 2, A_ii, (1, -u^T) B (1, -u)),
            u | s, D ~ N(Q^-1 (B_ri / s - D A_ri), Q^-1),   Q = A_ii D + B_rr / s

        Raises:
            ValueError: for numbers that are not positive.
        """
        rng = np.random.default_rng(seed)
        x = self._start()
        draws = np.empty((checks.positive_int("n", n), self.size, self.size))
        for sweep in range(-checks.positive_int("warmup", warmup), n):
            for i in range(self.size):
                x = self._update(rng, x, i)
            if sweep >= 0:
                draws[sweep] = x
        return draws

    def mean(self, seed: int = 0, n: int = 4000) -> MeanEstimate:
        """E X: in closed form for P = 1, else from `n` sweeps of :meth:`sample`."""
        if self.size == 1:
            omega = np.sqrt(self.a * self.b)
            ratio = special.kve(self.order + 1, omega) / special.kve(self.order, omega)
            return MeanEstimate(
                mean=np.sqrt(self.b / self.a) * ratio, standard_error=np.zeros((1, 1))
            )
        draws = self.sample(seed, n)
        batches = np.stack([part.mean(axis=0) for part in np.array_split(draws, _BATCHES)])
        return MeanEstimate(
            mean=draws.mean(axis=0), standard_error=batches.std(axis=0, ddof=1) / np.sqrt(_BATCHES)
        )

    def _start(self) -> np.ndarray:
        """The mode of the law with lambda = (P + 1) / 2: X with X A X = B.

        It is the geometric mean of A^-1 and B.
        """
        root = _root(self.a)
        inverse = np.linalg.inv(root)
        x = inverse @ _root(root @ self.b @ root) @ inverse
        return (x + x.T) / 2

    def _update(self, rng: np.random.Generator, x: np.ndarray, i: int) -> np.ndarray:
        rest = np.delete(np.arange(self.size), i)
        d, a, b = x[np.ix_(rest, rest)], self.a, self.b
        u = np.linalg.solve(d, x[rest, i]) if len(rest) else np.zeros(0)
        contrast = np.zeros(self.size)
        contrast[i], contrast[rest] = 1.0, -u
        s = _gig(
            rng, self.order - (self.size - 1) / 2, float(a[i, i]), float(contrast @ b @ contrast)
        )
        precision = a[i, i] * d + b[np.ix_(rest, rest)] / s
        factor = np.linalg.cholesky(precision)
        centre = linalg.cho_solve((factor, True), b[rest, i] / s - d @ a[rest, i])
        u = centre + linalg.solve_triangular(factor.T, rng.normal(size=len(rest)))
        new = x.copy()
        new[rest, i] = new[i, rest] = d @ u
        new[i, i] = s + u @ d @ u
        return new

    def _log_constant(self) -> float:
        if self.size > 1:
            return 0.0
        a, b = self.a.item(), self.b.item()
        omega = np.sqrt(a * b)
        return float(
            np.log(2 * special.kve(self.order, omega)) - omega + self.order / 2 * np.log(b / a)
        )


def hidden_gram_posterior(
    k0: Float[np.ndarray, "P P"], target: Float[np.ndarray, "P P"], width: int, n_outputs: int
) -> MatrixGIG:
    """The exact posterior of K_1 in a linear network with one hidden layer.

    Its outputs are given without noise.

    Args:
        k0: K_0, positive definite.
        target: K_2 = Y Y^T / N_2, positive definite: add the noise's variance.
        width: N_1, at least P.
        n_outputs: N_2.

    Raises:
        ValueError: for matrices that are not positive definite, and widths below P.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory.matrix_gig import hidden_gram_posterior
        >>> hidden_gram_posterior(np.eye(2), np.eye(2), width=8, n_outputs=2).size
        2
    """
    k0, target = _definite("k0", k0), _definite("target", target)
    n1, n2 = checks.positive_int("width", width), checks.positive_int("n_outputs", n_outputs)
    if n1 < len(k0):
        raise ValueError(
            f"Expected width of at least {len(k0)}, so that K_1 has a density. Got {n1}."
        )
    return MatrixGIG((n1 - n2) / 2, n1 * np.linalg.inv(k0), n2 * target)


def _gig(rng: np.random.Generator, order: float, a: float, b: float) -> float:
    """A draw from the density proportional to s^(order - 1) exp(-(a s + b / s) / 2)."""
    from scipy import stats  # slow to import

    return float(np.sqrt(b / a) * stats.geninvgauss.rvs(order, np.sqrt(a * b), random_state=rng))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _definite(name: str, matrix: np.ndarray) -> np.ndarray:
    values = gram_matrix(name, np.atleast_2d(matrix))
    if np.linalg.eigvalsh(values)[0] <= 0:
        raise ValueError(f"Expected {name} to be positive definite. Got a singular matrix.")
    return values
