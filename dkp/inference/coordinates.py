"""The unknowns of a network as one vector z: what Monte Carlo samplers move.

The prior of z is close to N(0, I).

Every bottleneck contributes the Bartlett factor A of its Gram matrix, whose entries are independent
and whose law does not depend on the layers below: its normals as they are, and the logarithms of
its diagonal, centred and scaled, but for an entry with one degree of freedom, which is a normal
number but for its sign. Hyperparameters stand on the unconstrained scale, centred and scaled by
their prior. The data enter through the likelihood alone: Gaussian noise is integrated out with the
outputs, other likelihoods see f = L_K e, with e in z.

    log p(z, y) = log N(z; 0, I) + correction(z) + log p(y | network(z))

where the correction, the log-ratio of the exact prior density and the normal one, comes from the
diagonals and the hyperparameters only. Where a Wishart bottleneck has an integer width nu its
factor may instead be N x nu features, whose prior is exactly normal: more coordinates than the
factor has, since rotated features have one Gram matrix.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from numpyro.distributions import TransformedDistribution, biject_to

from dkp._core.record import static, value
from dkp._core.types import Array, Float, Int, PRNGKeyArray, Scalar
from dkp.bottlenecks.base import Bottleneck
from dkp.data.dataset import Dataset
from dkp.distributions.bartlett import Bartlett, LowerTrapezoidalTransform
from dkp.gram.gram import Gram, Inputs
from dkp.gram.order import farthest_first
from dkp.inference.references import (
    inferred_hyperparameters,
    log_chi_moments,
    log_normal,
    reference,
)
from dkp.linalg.cholesky import cholesky_product
from dkp.model.hyperparameters import Hyperparameter, resolve
from dkp.model.outputs import gaussian_log_density, observed_log_density
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import propagate

__all__ = ["Coordinates", "Network"]


@value
class Network:
    """What a point z stands for.

    Attributes:
        model: with the hyperparameters of the point.
        values: of the hyperparameters, by name.
        factors: of the Gram matrices.
        kernel: K of the outputs.
        f: latent functions at the data, (N, Q), or None where Gaussian noise integrates them out.
        correction: log-ratio of the prior density of z and N(z; 0, I).
        jitter: the largest added to a diagonal.
    """

    model: DeepKernelProcess
    values: dict[str, Array]
    factors: tuple[Array, ...]
    kernel: Float[Array, "N N"]
    f: Float[Array, "N Q"] | None
    correction: Scalar
    jitter: Scalar


@value
class Coordinates:
    """The map from z to networks on given data, and the densities that go with it.

    See the head of this module. It is made by :meth:`of`.

    Attributes:
        model: with a number or a distribution for every hyperparameter.
        data: the points at which the Gram matrices live, and their targets.
        order: the rows of the data in the order in which the factors have them.
        references: centre and spread of every hyperparameter on the unconstrained scale.
        features: sample N x nu features where a bottleneck has them (Wishart of integer width below
            N).
    """

    model: DeepKernelProcess
    data: Dataset
    order: Int[Array, " N"]
    references: dict[str, tuple[Array, Array]]
    features: bool = static(False)

    @classmethod
    def of(
        cls, model: DeepKernelProcess, data: Dataset, *, features: bool = False
    ) -> "Coordinates":
        """The coordinates of a model on data; each row is the farthest from those before it.

        The factor of a kernel matrix then begins with points that differ, and changes least when
        the kernel changes: on a UCI subset chains needed a third of the gradients for an effective
        draw.

        Raises:
            ValueError: when a bottleneck has no Bartlett factor, or does not fit the number of
                points.
        """
        for layer in model.bottlenecks:
            layer.check_points(data.n)
        order = farthest_first(np.asarray(data.x, np.float64).reshape(data.n, -1))
        inferred = inferred_hyperparameters(model, data)
        made = cls(
            model=model,
            data=data,
            order=jnp.asarray(order),
            references={n: reference(i, h, data) for i, (n, h) in enumerate(inferred.items())},
            features=features,
        )
        made._check_bottlenecks()
        return made

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Coordinates":
        """From a file of format 1, which had no order and no references."""
        return cls.of(fields["model"], fields["data"], features=fields["features"])

    @property
    def dtype(self) -> Any:
        return self.data.x.dtype

    @property
    def x(self) -> Float[Array, "N *space D"]:
        """Features in the order of the factors."""
        return self.data.x[self.order]

    @property
    def y(self) -> Float[Array, "N C"]:
        """Targets in the order of the factors."""
        return self.data.y[self.order]

    @property
    def is_collapsed(self) -> bool:
        """Whether f is integrated out in closed form: Gaussian noise, of rows that count once."""
        return self.model.likelihood.is_gaussian and self.data.weights is None

    def in_data_order(self, rows: Float[Array, "N *rest"]) -> Float[Array, "N *rest"]:
        """Rows in the order of the factors, as the data have them."""
        return rows[jnp.argsort(self.order)]

    @functools.cached_property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The inferred hyperparameters, by name."""
        return inferred_hyperparameters(self.model, self.data)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each hyperparameter, bottleneck, and of the latent functions."""
        n, targets = self.data.n, self.data.n_outputs
        hyper = [math.prod(h.shape) for h in self.hyperparameters.values()]
        widths = [(layer, self._feature_columns(layer)) for layer in self.model.bottlenecks]
        factors = [
            self._factor_transform(layer).size if w is None else n * w for layer, w in widths
        ]
        latent = [] if self.is_collapsed else [n * self.model.likelihood.n_latent(targets)]
        return (*hyper, *factors, *latent)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return sum(self.sizes)

    def network(self, z: Float[Array, " K"]) -> Network:
        """The network at z."""
        parts = self._split(z)
        values, correction = self._values(parts)
        model = resolve(self.model, values, self.dtype, self.data.d, self.data.n_outputs)
        n_hyper = len(values)
        factors: list[Array] = []
        spent = {"correction": correction, "jitter": jnp.zeros((), self.dtype)}

        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            law: Any = layer.whitened_prior(self.data.n, self.dtype)
            noise, excess = self._noise(layer, law.base_dist.df, parts[n_hyper + index - 1])
            factor, jitter = cholesky_product(kernel.ii, layer.whiten(noise))
            factors.append(factor)
            spent["correction"] += excess
            spent["jitter"] = jnp.maximum(spent["jitter"], jitter)
            return Gram(ii=factor @ factor.T)

        kernel = propagate(model.layers, Inputs(i=self.x), bottleneck).ii
        f = None
        if not self.is_collapsed:
            f, jitter = cholesky_product(kernel, parts[-1].reshape(self.data.n, -1))
            spent["jitter"] = jnp.maximum(spent["jitter"], jitter)
        return Network(
            model=model, values=values, factors=tuple(factors), kernel=kernel, f=f, **spent
        )

    def log_densities(self, z: Float[Array, " K"]) -> tuple[Scalar, Scalar]:
        """The correction and log p(y | network(z)).

        Both are -infinity where they are not finite, so that no sampler goes there.
        """
        network = self.network(z)
        likelihood = self.log_likelihood(network)
        good = jnp.isfinite(likelihood) & jnp.isfinite(network.correction)
        outside = jnp.asarray(-jnp.inf, likelihood.dtype)
        return jnp.where(good, network.correction, outside), jnp.where(good, likelihood, outside)

    def log_likelihood(self, network: Network) -> Scalar:
        """log p(y | network): all outputs, standardised targets."""
        y, likelihood = self.y, network.model.likelihood
        if network.f is not None:
            weights, offset = (None if a is None else a[self.order] for a in self.data.rows[2:])
            rows = likelihood.log_density(y, network.f if offset is None else network.f + offset)
            return jnp.asarray(jnp.sum(rows if weights is None else weights * rows), self.dtype)
        covariance = network.kernel + self.noise_variance(network) * jnp.eye(
            self.data.n, dtype=self.dtype
        )
        density = observed_log_density if self.data.has_missing else gaussian_log_density
        return density(covariance, y)

    def noise_variance(self, network: Network) -> Scalar:
        """The one noise variance of a Gaussian likelihood."""
        noise = network.model.likelihood.noise_variance(self.data.n_outputs)
        assert noise is not None
        return noise[0]

    def log_prior(self, z: Float[Array, " K"]) -> Scalar:
        """Log-density of z under the prior."""
        return self.network(z).correction + log_normal(z)

    def log_posterior(self, z: Float[Array, " K"]) -> Scalar:
        """log p(z, y)."""
        correction, likelihood = self.log_densities(z)
        return correction + likelihood + log_normal(z)

    def sample_prior(self, key: PRNGKeyArray) -> Float[Array, " K"]:
        """A draw of z from the prior."""
        parts = []
        for i, (name, h) in enumerate(self.hyperparameters.items()):
            draw = jnp.asarray(h.prior.sample(jax.random.fold_in(key, i)), self.dtype)
            parts.append(self.standardise(name, draw))
        values, _ = self._values(parts)
        model = resolve(self.model, values, self.dtype, self.data.d, self.data.n_outputs)
        for layer in model.bottlenecks:
            layer_key = jax.random.fold_in(key, len(parts))
            columns = self._feature_columns(layer)
            if columns is None:
                law: Any = layer.whitened_prior(self.data.n, self.dtype)
                part = self.coordinates_of_noise(layer, law.base_dist.sample(layer_key))
                signs = jax.random.rademacher(
                    jax.random.fold_in(layer_key, 1), (self._n_signed(layer),), self.dtype
                )
                parts.append(
                    part * jnp.concatenate([jnp.ones(len(part) - len(signs), self.dtype), signs])
                )
            else:
                parts.append(jax.random.normal(layer_key, (self.data.n * columns,), self.dtype))
        for size in self.sizes[len(parts) :]:
            parts.append(
                jax.random.normal(jax.random.fold_in(key, len(parts)), (size,), self.dtype)
            )
        return jnp.concatenate(parts) if parts else jnp.zeros(0, self.dtype)

    def _check_bottlenecks(self) -> None:
        centres = {n: h.constrain(self.references[n][0]) for n, h in self.hyperparameters.items()}
        typical = resolve(self.model, centres, self.dtype, self.data.d, self.data.n_outputs)
        for index, layer in enumerate(typical.bottlenecks, start=1):
            law = layer.whitened_prior(self.data.n, self.dtype)
            if not (
                isinstance(law, TransformedDistribution) and isinstance(law.base_dist, Bartlett)
            ):
                raise ValueError(
                    "Expected bottlenecks whose prior is made from a Bartlett factor. Got "
                    f"{layer!r} (bottleneck {index}) with {type(law).__name__}."
                )

    # --- parts ------------------------------------------------------------------------------------

    def _split(self, z: Array) -> list[Array]:
        ends = np.cumsum(self.sizes)[:-1].tolist()
        return jnp.split(z, ends) if self.sizes else []

    def _values(self, parts: list[Array]) -> tuple[dict[str, Array], Scalar]:
        values, excess = {}, jnp.zeros((), self.dtype)
        for part, (name, h) in zip(parts, self.hyperparameters.items(), strict=False):
            centre, spread = self.references[name]
            free = jnp.asarray(centre + spread * part.reshape(h.shape))
            values[name] = h.constrain(free)
            jacobian = jnp.sum(biject_to(h.constraint).log_abs_det_jacobian(free, values[name]))
            density = jnp.asarray(h.prior.log_prob(values[name]), self.dtype) + jnp.asarray(
                jacobian, self.dtype
            )
            excess += density + jnp.sum(jnp.log(spread)) - log_normal(part)
        return values, excess

    def standardise(self, name: str, draw: Array) -> Float[Array, " H"]:
        """Coordinates of a value of a hyperparameter."""
        centre, spread = self.references[name]
        return ((self.hyperparameters[name].unconstrain(draw) - centre) / spread).reshape(-1)

    def _factor_transform(self, layer: Bottleneck) -> LowerTrapezoidalTransform:
        return LowerTrapezoidalTransform(self.data.n, layer.n_columns(self.data.n))

    def _noise(
        self, layer: Bottleneck, df: Float[Array, " M"], part: Array
    ) -> tuple[Array, Scalar]:
        """The matrix that the prior's transforms turn into a factor, and the correction."""
        columns = self._feature_columns(layer)
        if columns is not None:
            return part.reshape(self.data.n, columns), jnp.zeros((), self.dtype)
        transform = self._factor_transform(layer)
        below, standard = part[: -transform.columns], part[-transform.columns :]
        positive = transform.columns - self._n_signed(layer)
        df, standard, signed = df[:positive], standard[:positive], standard[positive:]
        centre, spread = log_chi_moments(df)
        log_diagonal = centre + spread * standard
        # The density of log A_jj, where A_jj^2 ~ chi^2(df_j).
        density = (
            df * log_diagonal
            - jnp.exp(2 * log_diagonal) / 2
            - gammaln(df / 2)
            - (df / 2 - 1) * math.log(2)
        )
        matrix = transform.matrix(below, jnp.concatenate([jnp.exp(log_diagonal), signed]))
        return matrix, jnp.sum(density + jnp.log(spread)) - log_normal(standard)

    def coordinates_of_noise(self, layer: Bottleneck, noise: Array) -> Array:
        """Coordinates of a bottleneck's Bartlett factor, or of its features."""
        if self._feature_columns(layer) is not None:
            return noise.reshape(-1)
        law: Any = layer.whitened_prior(self.data.n, self.dtype)
        transform = self._factor_transform(layer)
        below, on = transform.entries(noise)
        positive = transform.columns - self._n_signed(layer)
        centre, spread = log_chi_moments(law.base_dist.df[:positive])
        return jnp.concatenate([below, (jnp.log(on[:positive]) - centre) / spread, on[positive:]])

    def _n_signed(self, layer: Bottleneck) -> int:
        """How many diagonal entries, the last ones of the factor, are sampled with a sign.

        They are those with one degree of freedom, which are absolute values of normal numbers.

        The Gram matrix does not see the sign of a column; the logarithm of the entry has a steep
        wall on one side.
        """
        width = layer.n_features
        return int(width is not None and width <= self.data.n)

    def _feature_columns(self, layer: Bottleneck) -> int | None:
        """Number of features of a bottleneck that is sampled by its features; None for others."""
        width = layer.n_features
        return width if self.features and width is not None and width < self.data.n else None
