"""How far two posteriors of one model are from each other.

It audits an approximation by an exact sampler.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.record import record
from dkp._core.types import Float, PRNGKeyArray
from dkp.diagnostics.grams import grams_at
from dkp.diagnostics.metrics import Estimate
from dkp.posterior.predict import predict
from dkp.posterior.protocol import Bound, Posterior

__all__ = ["Comparison", "Distance", "compare", "energy_distance", "pareto_k"]

_FOLDS = 20


class Distance(NamedTuple):
    """Distance between two sets of draws of a vector.

    Attributes:
        shift: largest |mean_a - mean_b| in standard deviations of b, over the entries.
        mean_shift: its root mean square.
        spread: geometric mean of sd_a / sd_b.
        energy: energy distance, with its standard error.

    Examples:
        >>> from dkp.diagnostics.comparison import Distance
        >>> from dkp.diagnostics.metrics import Estimate
        >>> Distance(shift=0.1, mean_shift=0.05, spread=1.0, energy=Estimate(0.0, 0.01)).spread
        1.0
    """

    shift: float
    mean_shift: float
    spread: float
    energy: Estimate


@record
class Comparison:
    """Two posteriors, a against b; see :func:`compare`.

    Attributes:
        predictive: of y at the points, standardised by b.
        grams: of the Gram matrix of each bottleneck at the points, and last of the kernel of the
            outputs.
        elbo: of each posterior that has one (nats, all data, standardised targets), and None.
        k_hat: Pareto shape of the importance weights of each variational guide; below 0.7 the guide
            covers the posterior.
        importance_evidence: log evidence from those weights.
        evidence: as given, nats.
    """

    predictive: Distance
    grams: tuple[Distance, ...]
    elbo: tuple[Estimate | None, Estimate | None]
    k_hat: tuple[float | None, float | None]
    importance_evidence: tuple[float | None, float | None]
    evidence: float | None

    @property
    def gap(self) -> tuple[float | None, float | None]:
        """Evidence minus ELBO, nats, where both are known.

        It is the divergence of each guide from the posterior.
        """
        a, b = (
            None if e is None or self.evidence is None else self.evidence - e.mean
            for e in self.elbo
        )
        return a, b

    def __str__(self) -> str:
        """A table of the distances, and a line for each variational posterior."""
        names = [
            "predictive",
            *(f"gram {i}" for i in range(1, len(self.grams))),
            "kernel of outputs",
        ]
        head = (
            f"{'':17}  {'largest shift':>13} {'rms shift':>9} {'sd ratio':>8} "
            f"{'energy distance':>19}"
        )
        rows = [
            f"{name:17}  {d.shift:>13.3f} {d.mean_shift:>9.3f} {d.spread:>8.3f} "
            f"{d.energy.mean:>10.4f} +- {d.energy.standard_error:.4f}"
            for name, d in zip(names, (self.predictive, *self.grams), strict=True)
        ]
        return "\n".join([head, *rows, *self._guides()])

    def _guides(self) -> list[str]:
        lines = []
        for which, elbo, k, importance, gap in zip(
            "ab", self.elbo, self.k_hat, self.importance_evidence, self.gap, strict=True
        ):
            if elbo is None:
                continue
            text = f"{which}: ELBO {elbo.mean:.2f} +- {elbo.standard_error:.2f}"
            text += (
                ""
                if k is None
                else f", k-hat {k:.2f}, evidence by importance sampling {importance:.2f}"
            )
            lines.append(text + ("" if gap is None else f", evidence - ELBO {gap:.2f}"))
        return lines


def compare(
    posterior_a: Posterior,
    posterior_b: Posterior,
    x: Any,
    *,
    key: PRNGKeyArray,
    n_samples: int = 400,
    evidence: float | None = None,
) -> Comparison:
    """Compare two posteriors of one model and data set.

    One is an approximation (a), the other judges it (b).

    Their predictive draws at `x` and their Gram matrices at `x` (drawn from the joint conditional
    prior given each draw) are compared by means, standard deviations and energy distance; a
    variational posterior also by its ELBO and the importance weights of its guide.

    Args:
        x: points (B, D) in the original units; a few dozen at most, since Gram matrices are
            compared entry by entry.
        key: for the draws.
        n_samples: draws of each, at least 3. Draws of Markov chains count as independent in the
            standard errors.
        evidence: log evidence in nats, all data and standardised targets, such as
            ``dkp.log_evidence(…).log_evidence``.

    Raises:
        ValueError: when the posteriors have other layers, or were conditioned on other data.

    Source: energy distance: Székely & Rizzo 2013; Pareto k-hat of a guide: Yao, Vehtari, Simpson &
    Gelman 2018.
    """
    pair = (posterior_a, posterior_b)
    _check_pair(*pair)
    n = checks.positive_int("n_samples", n_samples)
    if n < 3:
        raise ValueError(f"Expected n_samples of 3 or more. Got {n}.")
    checks.random_key("key", key)
    rows = posterior_b.data.standardize_inputs(x)
    predictions, grams, audits = [], [], []
    # common random numbers would correlate
    for posterior, own_key in zip(pair, jax.random.split(key), strict=True):
        key_predict, key_draws, key_grams, key_guide = jax.random.split(own_key, 4)
        predictions.append(
            predict(posterior, x, key=key_predict, n_samples=n).samples.reshape(n, -1)
        )
        draws = posterior.sample(key_draws, n)
        # a posterior that is known exactly has one draw
        which = np.arange(n) % draws.inducing.shape[0]
        draws = jax.tree.map(lambda a, which=which: a[which], draws)
        grams.append(grams_at(posterior, draws, rows, key=key_grams))
        audits.append(_audit(posterior, key_guide, n))
    return Comparison(
        predictive=_distance(*predictions),
        grams=tuple(_distance(*(_entries(g) for g in layer)) for layer in zip(*grams, strict=True)),
        elbo=(audits[0][0], audits[1][0]),
        k_hat=(audits[0][1], audits[1][1]),
        importance_evidence=(audits[0][2], audits[1][2]),
        evidence=evidence,
    )


def energy_distance(a: Float[np.ndarray, "S K"], b: Float[np.ndarray, "T K"]) -> Estimate:
    """2 E|A - B| - E|A - A'| - E|B - B'| of two samples of vectors, and its standard error.

    The estimate is without bias; its error is that of the jackknife.

    It is zero for equal laws and positive for others, in the units of the vectors.

    Args:
        a: draws, at least three.
        b: draws, at least three.

    Raises:
        ValueError: when there are fewer.

    Examples:
        >>> import numpy as np
        >>> from dkp.diagnostics.comparison import energy_distance
        >>> a = np.array([[0.0], [1.0], [2.0]])
        >>> print(f"{energy_distance(a, a + 10.0).mean:.3f}")
        17.333
    """
    a, b = (checks.finite_array(name, v, ndim=2) for name, v in (("a", a), ("b", b)))
    if min(len(a), len(b)) < 3:
        raise ValueError(f"Expected three draws of each or more. Got {len(a)} and {len(b)}.")
    within_a, within_b, between = _distances(a, a), _distances(b, b), _distances(a, b)
    folds = min(_FOLDS, len(a), len(b))
    parts = []
    for fold in range(folds):
        i, j = (np.flatnonzero(np.arange(len(v)) % folds != fold) for v in (a, b))
        parts.append(_energy(within_a[np.ix_(i, i)], within_b[np.ix_(j, j)], between[np.ix_(i, j)]))
    error = math.sqrt((folds - 1) * float(np.var(parts)))
    return Estimate(_energy(within_a, within_b, between), error)


def pareto_k(log_weights: Any) -> float:
    """Shape k-hat of the generalised Pareto tail of importance weights (Vehtari et al. 2024).

    Their mean is reliable below 0.7.

    Examples:
        >>> import numpy as np
        >>> from dkp.diagnostics.comparison import pareto_k
        >>> pareto_k(np.random.default_rng(0).normal(size=1000)) < 0.7
        True
    """
    values = np.asarray(log_weights, float)
    # Two homes of one function: the second goes when ArviZ 0.x is no longer supported.
    try:
        from arviz_stats.base import array_stats  # ArviZ 1.x  # pyright: ignore[reportMissingImports]
    except ImportError:
        from arviz import psislw

        return float(psislw(values)[1])
    return float(array_stats.psislw(values)[1])


def _energy(within_a: np.ndarray, within_b: np.ndarray, between: np.ndarray) -> float:
    inside = [w.sum() / (len(w) * (len(w) - 1)) for w in (within_a, within_b)]
    return float(2 * between.mean() - inside[0] - inside[1])


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2 * a @ b.T
    distances = np.sqrt(np.maximum(squares, 0))
    if a is b:
        np.fill_diagonal(distances, 0)  # rounding
    return distances


def _distance(a: np.ndarray, b: np.ndarray) -> Distance:
    """Both in standard deviations of b, entry by entry.

    The energy distance is divided by the root of their number.
    """
    spread = b.std(axis=0, ddof=1)
    varies = spread > 0
    a, b, spread = a[:, varies], b[:, varies], spread[varies]
    if not varies.any():
        return Distance(math.nan, math.nan, math.nan, Estimate(math.nan, math.nan))
    shift = (a.mean(axis=0) - b.mean(axis=0)) / spread
    energy = energy_distance(a / spread, b / spread)
    root = math.sqrt(a.shape[1])
    ratio = np.maximum(a.std(axis=0, ddof=1) / spread, np.finfo(float).tiny)
    return Distance(
        shift=float(np.abs(shift).max()),
        mean_shift=float(np.sqrt(np.mean(shift**2))),
        spread=float(np.exp(np.mean(np.log(ratio)))),
        energy=Estimate(energy.mean / root, energy.standard_error / root),
    )


def _entries(gram: Any) -> np.ndarray:
    """Entries on and below the diagonal of a stack of matrices."""
    values = np.asarray(gram, float)
    return values[(slice(None), *np.tril_indices(values.shape[-1]))]


def _audit(
    posterior: Posterior, key: PRNGKeyArray, n: int
) -> tuple[Estimate | None, float | None, float | None]:
    """ELBO, k-hat and importance-sampling evidence of a variational posterior."""
    if not isinstance(posterior, Bound):
        return None, None, None
    elbo = Estimate(*posterior.elbo(key, n))
    if not posterior.model.likelihood.is_gaussian or posterior.data.weights is not None:
        return elbo, None, None
    weights = posterior.log_weights(key, n)
    return elbo, pareto_k(weights), float(jax.scipy.special.logsumexp(weights) - jnp.log(float(n)))


def _check_pair(a: Any, b: Any) -> None:
    for name, posterior in (("posterior_a", a), ("posterior_b", b)):
        if not isinstance(posterior, Posterior):
            raise ValueError(
                f"Expected {name} to come from an engine. Got {type(posterior).__name__}."
            )
    if tuple(map(type, a.model.layers)) != tuple(map(type, b.model.layers)):
        raise ValueError("Expected two posteriors of one model. Got others' layers.")
    pairs = [(a.data.x, b.data.x), (a.data.y, b.data.y)]
    if not all(p.shape == q.shape and np.allclose(p, q, equal_nan=True) for p, q in pairs):
        raise ValueError("Expected two posteriors conditioned on the same data. Got others.")
