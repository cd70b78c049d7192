"""What the outputs see of a batch of the data, and the natural parameters that it asks for."""

import jax
import jax.numpy as jnp

from dkp._core.record import static, value
from dkp._core.types import Array, Float, PRNGKeyArray, Scalar
from dkp.gram.gram import Gram
from dkp.likelihoods.base import Likelihood
from dkp.linalg.cholesky import Cholesky

__all__ = ["OutputBatch"]


@value
class OutputBatch:
    """What the outputs see of a batch of the n data points.

    Attributes:
        y: targets, (B, C).
        n: number of all data points.
        weights: how often each row counts.
        offset: what is added to the latent functions in the likelihood.
        key: for likelihoods that draw.
    """

    y: Float[Array, "B C"]
    n: int = static()
    weights: Float[Array, " B"] | None = None
    offset: Float[Array, "B 1"] | None = None
    key: PRNGKeyArray | None = None

    @property
    def share(self) -> float:
        """How many data points stand behind one of the batch."""
        return self.n / self.y.shape[0]

    def expected_log_density(
        self, likelihood: Likelihood, mean: Float[Array, "B Q"], variance: Float[Array, "B Q"]
    ) -> Scalar:
        """E log p(y | f), the sum over the batch."""
        mean = mean if self.offset is None else mean + self.offset
        rows = likelihood.expected_log_density(self.y, mean, variance, self.key)
        return jnp.sum(rows if self.weights is None else self.weights * rows)

    def sites(
        self,
        likelihood: Likelihood,
        kernel: Gram,
        scale: Cholesky,
        mean: Float[Array, "B Q"],
        variance: Float[Array, "B Q"],
        *,
        shared: bool = True,
    ) -> dict[str, Array]:
        """Natural parameters of the outputs that a batch asks for.

        The latent functions have these moments at the points of the batch, and L, the factor of
        K_ii, is `scale`.

        With p_t = L^-1 k_it and the derivatives g_t and -h_t / 2 of E log p(y_t | f_t) in mean and
        variance,

            b = (n / B) sum_t p_t (g_t + h_t mean_t)^T,   H = (n / B) sum_t h_t p_t p_t^T

        For Gaussian noise h = 1 / s^2 and g + h mean = y / s^2: with all data they are the optimum,
        whatever they were.

        Source: Khan & Lin 2017 (arXiv 1703.04265), conjugate-computation variational inference;
        Salimbeni, Eleftheriadis & Hensman 2018 (arXiv 1803.09151). Where H is `shared` by the
        latent functions, h is averaged over them. A likelihood that is not log-concave may have h <
        0, which counts as 0.
        """
        assert kernel.ti is not None

        def expected(mean: Array, variance: Array) -> Scalar:
            return self.expected_log_density(likelihood, mean, variance)

        slope, curvature = jax.grad(expected, (0, 1))(mean, variance)
        weight = jnp.maximum(-2 * curvature, 0)
        projection = kernel.ti @ scale.inverse.T
        if shared:
            precision = projection.T @ (jnp.mean(weight, axis=1)[:, None] * projection)
        else:
            precision = projection.T @ (weight.T[..., None] * projection[None])
        linear = projection.T @ (slope + weight * mean)
        return {"linear": self.share * linear, "precision": self.share * precision}
