"""Classes, with and without an order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.nn import log_sigmoid, log_softmax, softmax
from jax.scipy.special import log_ndtr, logsumexp

from dkp._core.checks import one_of, positive_int
from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.likelihoods.base import Likelihood, PointwiseLikelihood, check_integers

__all__ = ["Bernoulli", "Categorical", "Ordinal"]

_DRAWS = 16


class _Labels(dist.CategoricalLogits):
    """A categorical law of labels that are stored as floating-point numbers."""

    def log_prob(self, value: Any) -> Array:
        logits = jnp.asarray(self.logits)
        shape = jnp.broadcast_shapes(jnp.shape(value), self.batch_shape)
        index = jnp.broadcast_to(jnp.asarray(value), shape).astype(jnp.int32)
        rows = jnp.broadcast_to(log_softmax(logits, axis=-1), (*shape, logits.shape[-1]))
        return jnp.take_along_axis(rows, index[..., None], axis=-1)[..., 0]

    @property
    def mean(self) -> Array:
        return self._moment(1)

    @property
    def variance(self) -> Array:
        return self._moment(2) - self.mean**2

    def _moment(self, order: int) -> Array:
        """Mean of a power of the label."""
        logits = jnp.asarray(self.logits)
        return softmax(logits, axis=-1) @ jnp.arange(logits.shape[-1], dtype=logits.dtype) ** order


class _Binary(dist.BernoulliLogits):
    """A Bernoulli law of 0 and 1 that are stored as floating-point numbers."""

    def log_prob(self, value: Any) -> Array:
        logits = jnp.asarray(self.logits)
        return log_sigmoid((2 * jnp.asarray(value, logits.dtype) - 1) * logits)


class Bernoulli(PointwiseLikelihood):
    """P(y = 1 | f) = 1 / (1 + exp(-f)), or Phi(f); y is 0 or 1.

    Args:
        link: "logit" or "probit".

    Raises:
        ValueError: when the link is neither.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.Bernoulli().law(jnp.array([[0.0], [1.0]]))
        >>> print(np.asarray(law.probs).round(3))
        [[0.5  ]
         [0.731]]
    """

    standardises_targets = False
    is_of_classes = True

    link: str = "logit"

    def __post_init__(self) -> None:
        one_of("link", self.link, ("logit", "probit"))

    def check_targets(self, y: Float[np.ndarray, "N C"]) -> None:
        check_integers("Bernoulli", y, 1)

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        logits = f if self.link == "logit" else log_ndtr(f) - log_ndtr(-f)
        return _Binary(logits)

    def predictive(
        self, mean: Float[Array, "B C"], variance: Float[Array, "B C"]
    ) -> dist.Distribution:
        """P(y = 1) = Phi(mean / sqrt(1 + variance)) for the probit; by quadrature for the logit."""
        if self.link == "probit":
            return self.law(mean / jnp.sqrt(1 + variance))
        return super().predictive(mean, variance)


class Categorical(Likelihood):
    """P(y = k | f) = exp(f_k) / sum_j exp(f_j), for classes k = 0, …, K - 1.

    There is one latent function for each class.

    E log p is estimated from draws of f, without bias: log sum_j exp(f_j) has no closed-form mean.

    Args:
        n_classes: K, at least 2.

    Raises:
        ValueError: when `n_classes` is no integer of at least 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.Categorical(3).law(jnp.array([[0.0, 0.0, 1.0]]))
        >>> print(np.asarray(law.probs).round(3))
        [[[0.212 0.212 0.576]]]
    """

    standardises_targets = False
    is_of_classes = True

    n_classes: int

    def __post_init__(self) -> None:
        if positive_int("n_classes", self.n_classes) < 2:
            raise ValueError(f"Expected n_classes to be at least 2. Got {self.n_classes}.")

    def n_latent(self, n_outputs: int) -> int:
        return self.n_classes

    def check_targets(self, y: Float[np.ndarray, "N C"]) -> None:
        if y.shape[1] != 1:
            raise ValueError(
                f"Expected one column of class labels for Categorical. Got {y.shape[1]} columns."
            )
        check_integers("Categorical", y, self.n_classes - 1)

    def law(self, f: Float[Array, "*S B K"]) -> dist.Distribution:
        return _Labels(f[..., None, :])

    def expected_log_densities(
        self,
        y: Float[Array, "B 1"],
        mean: Float[Array, "B K"],
        variance: Float[Array, "B K"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B 1"]:
        """mean_y - E log sum_j exp(f_j), the latter the average over pairs of opposite draws."""
        if key is None:
            raise ValueError(
                "Expected a random key for the expected log density of Categorical. Got none."
            )
        half = jax.random.normal(key, (_DRAWS // 2, *mean.shape), mean.dtype)
        f = mean[None] + jnp.sqrt(variance)[None] * jnp.concatenate([half, -half])
        total = jnp.mean(logsumexp(f, axis=-1), axis=0)
        return jnp.take_along_axis(mean, y.astype(jnp.int32), axis=-1) - total[:, None]


class Ordinal(PointwiseLikelihood):
    """P(y <= k | f) = 1 / (1 + exp(f - b_k)), for ordered classes k = 0, …, K - 1.

    The cut points b_0 < … < b_K-2 are b_0, and b_0 plus running sums of gaps.

    Args:
        n_classes: K, at least 3; with 2 it is Bernoulli.
        first: b_0.
        gaps: differences of successive cut points, K - 2 positive numbers.

    Raises:
        ValueError: when `n_classes` is no integer of at least 3, or a number lies outside its
            domain.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.Ordinal(3, first=-1.0, gaps=2.0).law(jnp.array([[0.0]]))
        >>> print(np.asarray(law.probs).round(3))
        [[[0.269 0.462 0.269]]]
    """

    standardises_targets = False
    is_of_classes = True

    n_classes: int
    first: Any = hyperparameter(default=learn(), domain="real")
    gaps: Any = hyperparameter(default=learn())

    def __post_init__(self) -> None:
        if positive_int("n_classes", self.n_classes) < 3:
            raise ValueError(
                "Expected n_classes to be at least 3; for 2 take Bernoulli(). Got "
                f"{self.n_classes}."
            )
        self.check_hyperparameters()

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"gaps": (self.n_classes - 2,)}

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        """The cut points that give every class its share of the targets where f is 0."""
        labels = jnp.arange(self.n_classes - 1, dtype=x.dtype)
        below = jnp.sum(y.reshape(-1, 1) <= labels[None, :], axis=0).astype(x.dtype) + 0.5
        share = jnp.clip(below / (y.size + 1), 0.01, 0.99)
        cuts = jnp.log(share / (1 - share))
        return {"first": cuts[0], "gaps": jnp.maximum(jnp.diff(cuts), 0.05)}

    def check_targets(self, y: Float[np.ndarray, "N C"]) -> None:
        check_integers("Ordinal", y, self.n_classes - 1)

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        """log P(y = k) = log s(b_k - f) + log s(f - b_k-1) + log(1 - exp(b_k-1 - b_k)).

        s is the logistic function: nothing cancels.
        """
        gaps = jnp.asarray(self.gaps, f.dtype)
        cuts = jnp.asarray(self.first, f.dtype) + jnp.concatenate(
            [jnp.zeros(1, f.dtype), jnp.cumsum(gaps)]
        )
        distance = jnp.broadcast_to(cuts, (*f.shape, len(cuts))) - f[..., None]
        below, above = log_sigmoid(distance), log_sigmoid(-distance)
        between = below[..., 1:] + above[..., :-1]
        inner = between + jnp.broadcast_to(jnp.log(-jnp.expm1(-gaps)), between.shape)
        return _Labels(jnp.concatenate([below[..., :1], inner, above[..., -1:]], axis=-1))
