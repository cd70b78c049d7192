"""Variational inference for deep kernel processes.

One pass through the layers draws the Gram factors from the guides, adds up the divergences of guide and prior in closed
form, and draws the data blocks from the conditional prior, where they cancel. The outputs are then integrated out: in
closed form for Gaussian noise and the full batch (collapsed), under a guide with pseudo-targets otherwise.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.distributions import kl_divergence

from dkp import _check
from dkp._types import Array, Float, PRNGKeyArray, Scalar
from dkp.bottlenecks import Bottleneck
from dkp.data import Dataset
from dkp.distributions.outputs import OutputLaw, collapsed_bound, pseudo_target_posterior
from dkp.guides import HyperparameterGuide, OutputGuide, guide_of
from dkp.inference.loop import Batches, LoopResult, minimise
from dkp.linalg.blocks import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model import DeepKernelProcess, propagate
from dkp.posterior import Draw
from dkp.priors import Hyperparameter, hyperparameters, resolve, transform_of
from dkp.progress import Progress

__all__ = ["VariationalFamily", "VariationalPosterior", "fit_vi"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerPass:
    """One draw through the layers: the resolved model, K entering the outputs, and what the draw cost."""

    model: DeepKernelProcess
    values: dict[str, Array]
    factors: tuple[Array, ...]
    kernel: Gram
    kl: Scalar
    jitter: Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariationalFamily:
    """The variational posterior of a model as functions of one pytree of parameters.

    Args:
        collapsed: integrate the outputs out in closed form; needs Gaussian noise and the full batch.
    """

    model: DeepKernelProcess
    n_features: int
    n_outputs: int
    collapsed: bool

    @functools.cached_property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return hyperparameters(self.model, self.n_features, self.n_outputs)

    def init(self, data: Dataset, inducing: Float[Array, "P D"]) -> dict[str, Any]:
        """Starting point: hyperparameters from the data, every guide centred on the deterministic network."""
        dtype = data.x.dtype
        learned, inferred = {}, {}
        for name, h in self.hyperparameters.items():
            if h.is_learned:
                learned[name] = transform_of(h.constraint).inv(h.initial(data.x, data.y))
            elif h.is_inferred:
                inferred[name] = HyperparameterGuide().init(h, dtype)
        parameters = {"inducing": inducing, "learned": learned, "inferred": inferred}
        bottlenecks: list[Any] = []

        def deterministic(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            bottlenecks.append(guide_of(layer).init(layer, cholesky(kernel.ii)))
            return kernel

        start = self._resolve({**self._learned(parameters), **self._prior_means()}, dtype)
        kernel = propagate(start.layers, Inputs(i=inducing), deterministic)
        parameters["bottlenecks"] = tuple(bottlenecks)
        if not self.collapsed:
            n_latent = self.model.likelihood.n_latent(self.n_outputs)
            parameters["outputs"] = OutputGuide().init(kernel.ii.shape[0], n_latent, dtype)
        return parameters

    def layer_pass(self, parameters: dict[str, Any], key: PRNGKeyArray, x: Float[Array, "B D"] | None) -> LayerPass:
        """One draw of hyperparameters and Gram matrices at the inducing points, and of the data blocks at `x`."""
        inducing = parameters["inducing"]
        inferred, kl = self._draw_inferred(parameters, jax.random.fold_in(key, 0))
        values = {**self._learned(parameters), **inferred}
        model = self._resolve(values, inducing.dtype)
        factors: list[Array] = []
        spent = {"kl": kl, "jitter": jnp.zeros((), inducing.dtype)}

        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            key_guide, key_data = jax.random.split(jax.random.fold_in(key, index))
            scale = cholesky(kernel.ii)
            q, jitter = guide_of(layer).posterior(layer, parameters["bottlenecks"][index - 1], kernel.ii, scale)
            factors.append(q.sample(key_guide))
            spent["kl"] += kl_divergence(q, layer.prior(scale))
            spent["jitter"] = jnp.maximum(spent["jitter"], jnp.maximum(jitter, scale.jitter))
            return layer.condition(key_data, kernel, scale, factors[-1])

        kernel = propagate(model.layers, Inputs(i=inducing, t=x), bottleneck)
        return LayerPass(model=model, values=values, factors=tuple(factors), kernel=kernel, **spent)

    def elbo(
        self, parameters: dict[str, Any], key: PRNGKeyArray, x: Float[Array, "B D"], y: Float[Array, "B C"], n: int
    ) -> tuple[Scalar, Scalar]:
        """Unbiased one-draw estimate of the evidence lower bound from a batch of the n data points, and the jitter used."""
        walk = self.layer_pass(parameters, key, x)
        if self.collapsed:
            scale = cholesky(walk.kernel.ii)
            bound, _ = collapsed_bound(walk.kernel, scale, y, self._noise(walk.model))
            return bound - walk.kl, jnp.maximum(walk.jitter, scale.jitter)
        law, kl, jitter = pseudo_target_posterior(walk.kernel.ii, *OutputGuide().arrays(parameters["outputs"]))
        mean, variance = law.moments(walk.kernel)
        likelihood = jnp.sum(walk.model.likelihood.expected_log_density(y, mean, variance))
        return likelihood * (n / x.shape[0]) - walk.kl - kl, jnp.maximum(walk.jitter, jitter)

    def draw(self, parameters: dict[str, Any], key: PRNGKeyArray, data: Dataset) -> Draw:
        """One draw of a network from the fitted posterior."""
        walk = self.layer_pass(parameters, key, data.x if self.collapsed else None)
        return Draw(
            values=walk.values,
            inducing=parameters["inducing"],
            factors=walk.factors,
            outputs=self._output_law(parameters, walk, data),
        )

    def _output_law(self, parameters: dict[str, Any], walk: LayerPass, data: Dataset) -> OutputLaw:
        if self.collapsed:
            return collapsed_bound(walk.kernel, cholesky(walk.kernel.ii), data.y, self._noise(walk.model))[1]
        return pseudo_target_posterior(walk.kernel.ii, *OutputGuide().arrays(parameters["outputs"]))[0]

    def _noise(self, model: DeepKernelProcess) -> Scalar:
        noise = model.likelihood.noise_variance(self.n_outputs)
        assert noise is not None
        return noise[0]

    def _resolve(self, values: dict[str, Array], dtype: Any) -> DeepKernelProcess:
        return resolve(self.model, values, dtype, self.n_features, self.n_outputs)

    def _learned(self, parameters: dict[str, Any]) -> dict[str, Array]:
        return {n: transform_of(self.hyperparameters[n].constraint)(v) for n, v in parameters["learned"].items()}

    def _prior_means(self) -> dict[str, Array]:
        return {n: jnp.broadcast_to(h.prior.mean, h.shape) for n, h in self.hyperparameters.items() if h.is_inferred}

    def _draw_inferred(self, parameters: dict[str, Any], key: PRNGKeyArray) -> tuple[dict[str, Array], Scalar]:
        dtype = parameters["inducing"].dtype
        values, kl = {}, jnp.zeros((), dtype)
        for i, (name, guide) in enumerate(parameters["inferred"].items()):
            h = self.hyperparameters[name]
            q = HyperparameterGuide().law(h, guide)
            values[name] = q.sample(jax.random.fold_in(key, i))
            kl += (q.log_prob(values[name]) - h.prior.log_prob(values[name])).astype(dtype)
        return values, kl


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariationalPosterior:
    """A fitted variational posterior.

    parameters: of the best state. elbo_trace: nats per data point on the standardised targets, every step. jitter: the largest added
    to a matrix. skipped: steps that were not finite. stopped: "finished", "converged" or "interrupted".
    """

    family: VariationalFamily
    parameters: Any
    data: Dataset
    elbo_trace: np.ndarray
    jitter: float
    skipped: int
    stopped: str
    seconds: float

    @property
    def model(self) -> DeepKernelProcess:
        return self.family.model

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the learned hyperparameters, by name."""
        return {n: np.asarray(v) for n, v in self.family._learned(self.parameters).items()}

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n draws of networks."""
        return _draws(self.family, self.parameters, jax.random.split(key, n), self.data)

    def elbo(self, key: PRNGKeyArray, n: int = 100) -> tuple[float, float]:
        """Evidence lower bound on all data (nats, standardised targets) from n draws, and its standard error."""
        values = np.asarray(_elbos(self.family, self.parameters, jax.random.split(key, n), self.data), float)
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        return {
            "engine": "vi",
            "steps": len(self.elbo_trace),
            "elbo_per_point": float(np.mean(self.elbo_trace[-100:])) if len(self.elbo_trace) else float("nan"),
            "stopped": self.stopped,
            "skipped": self.skipped,
            "jitter": self.jitter,
            "seconds": self.seconds,
        }


def _static_jit(function: Any) -> Any:
    return jax.jit(function, static_argnums=0)


@_static_jit
def _draws(family: VariationalFamily, parameters: Any, keys: PRNGKeyArray, data: Dataset) -> Draw:
    return jax.lax.map(lambda key: family.draw(parameters, key, data), keys)


@_static_jit
def _elbos(family: VariationalFamily, parameters: Any, keys: PRNGKeyArray, data: Dataset) -> Array:
    return jax.lax.map(lambda key: family.elbo(parameters, key, data.x, data.y, data.x.shape[0])[0], keys)


def fit_vi(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    n_inducing: int = 100,
    batch_size: int | None = None,
    steps: int = 2000,
    samples: int = 4,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float = 0.01,
    collapse: bool | None = None,
    patience: int | None = None,
    progress: bool | None = None,
) -> VariationalPosterior:
    family, parameters, batches = prepare(model, data, key=key, n_inducing=n_inducing, batch_size=batch_size, collapse=collapse)
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps, alpha=0.01))
    loss = negative_elbo(family, data.n, samples)
    with Progress(steps, label="fit_vi", enabled=progress) as bar:
        result = minimise(
            loss, parameters, optimizer, key=jax.random.fold_in(key, 1), steps=steps,
            data=(data.x, data.y), batches=batches, patience=patience, progress=bar,
        )
    return _posterior(family, data, result)


def negative_elbo(family: VariationalFamily, n: int, samples: int) -> Any:
    def loss(parameters: Any, key: PRNGKeyArray, batch: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
        x, y = batch
        keys = jax.random.split(key, samples)
        elbo, jitter = jax.vmap(lambda k: family.elbo(parameters, k, x, y, n))(keys)
        return -jnp.mean(elbo) / n, {"jitter": jnp.max(jitter)}
    return loss


def prepare(model, data, *, key, n_inducing, batch_size, collapse):
    full = batch_size is None or batch_size >= data.n
    gaussian = model.likelihood.n_latent(data.n_outputs) == data.n_outputs and hasattr(model.likelihood, "noise")
    collapsed = full and gaussian if collapse is None else collapse
    family = VariationalFamily(model=model, n_features=data.d, n_outputs=data.n_outputs, collapsed=collapsed)
    inducing = _inducing(data, n_inducing)
    parameters = family.init(data, inducing)
    batches = None if full else Batches(data.n, batch_size, int(jax.random.randint(key, (), 0, 2**31 - 1)))
    return family, parameters, batches


def _inducing(data, n_inducing):
    from sklearn.cluster import KMeans
    x = np.asarray(data.x, float)
    if n_inducing >= len(x):
        return jnp.unique(data.x, axis=0)
    rng = np.random.default_rng(0)
    if len(x) > 10000: x = x[rng.choice(len(x), 10000, replace=False)]
    centres = KMeans(n_inducing, n_init=1, random_state=0).fit(x).cluster_centers_
    return jnp.asarray(centres, data.x.dtype)


def _posterior(family, data, result):
    return VariationalPosterior(family=family, parameters=result.parameters, data=data, elbo_trace=-result.trace, jitter=result.jitter, skipped=result.skipped, stopped=result.stopped, seconds=result.seconds)
