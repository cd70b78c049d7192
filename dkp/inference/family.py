"""The variational family of a deep kernel process, as functions of one pytree of parameters.

One pass through the layers draws the Gram factors from the guides, adds up the divergences of guide and prior in closed
form, and draws the data blocks from the conditional prior, where they cancel. The outputs are then integrated out: in
closed form for Gaussian noise and the full batch (collapsed), under a guide with pseudo-targets otherwise.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import kl_divergence

from dkp._types import Array, Float, PRNGKeyArray, Scalar
from dkp._value import value
from dkp.bottlenecks import Bottleneck
from dkp.data import Dataset
from dkp.distributions.outputs import OutputLaw, collapsed_bound, pseudo_target_posterior
from dkp.guides import HyperparameterGuide, OutputGuide, guide_of
from dkp.linalg.blocks import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model import DeepKernelProcess, propagate
from dkp.posterior import Draw
from dkp.priors import Hyperparameter, hyperparameters, resolve

__all__ = ["LayerPass", "VariationalFamily"]


@value
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

    def init(self, data: Dataset, inducing: Float[Array, "P *space D"]) -> dict[str, Any]:
        """Starting point: hyperparameters from the data, every guide centred on the deterministic network."""
        learned, inferred = {}, {}
        for name, h in self.hyperparameters.items():
            if h.is_learned:
                learned[name] = h.unconstrain(h.initial(data.x, data.y))
            elif h.is_inferred:
                inferred[name] = HyperparameterGuide().init(h, data.x.dtype)
        parameters = {"inducing": inducing, "learned": learned, "inferred": inferred}
        if not self.collapsed:
            n_latent = self.model.likelihood.n_latent(self.n_outputs)
            parameters["outputs"] = OutputGuide().init(inducing.shape[0], n_latent, data.x.dtype)
        size, dtype = inducing.shape[0], inducing.dtype
        guides = tuple(guide_of(layer).init(layer, size, dtype) for layer in self.model.bottlenecks)
        return {**parameters, "bottlenecks": guides}

    def deterministic(
        self, parameters: dict[str, Any], x: Float[Array, "B *space D"]
    ) -> tuple[DeepKernelProcess, Gram]:
        """The network without noise in its bottlenecks (G = K): the model at these hyperparameters, and the last
        kernel."""
        inferred = {
            n: HyperparameterGuide().centre(self.hyperparameters[n], q) for n, q in parameters["inferred"].items()
        }
        model = self.resolve({**self.learned(parameters), **inferred}, parameters["inducing"].dtype)
        return model, propagate(model.layers, Inputs(i=parameters["inducing"], t=x), _no_noise)

    def layer_pass(
        self, parameters: dict[str, Any], key: PRNGKeyArray, x: Float[Array, "B *space D"] | None
    ) -> LayerPass:
        """One draw of hyperparameters and Gram matrices at the inducing points, and of the data blocks at `x`."""
        inducing = parameters["inducing"]
        values, kl = self.draw_values(parameters, jax.random.fold_in(key, 0))
        model = self.resolve(values, inducing.dtype)
        factors: list[Array] = []
        spent = {"kl": kl, "jitter": jnp.zeros((), inducing.dtype)}

        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            key_guide, key_data = jax.random.split(jax.random.fold_in(key, index))
            scale = cholesky(kernel.ii)
            q, jitter = guide_of(layer).posterior(layer, parameters["bottlenecks"][index - 1])
            whitened = jnp.asarray(q.sample(key_guide))
            factors.append(scale.tril @ whitened)
            spent["kl"] += kl_divergence(q, layer.whitened_prior(inducing.shape[0], inducing.dtype))
            spent["jitter"] = jnp.maximum(spent["jitter"], jnp.maximum(jitter, scale.jitter))
            return layer.condition(key_data, kernel, scale, factors[-1], whitened)

        kernel = propagate(model.layers, Inputs(i=inducing, t=x), bottleneck)
        return LayerPass(model=model, values=values, factors=tuple(factors), kernel=kernel, **spent)

    def elbo(
        self,
        parameters: dict[str, Any],
        key: PRNGKeyArray,
        x: Float[Array, "B *space D"],
        y: Float[Array, "B C"],
        n: int,
    ) -> tuple[Scalar, Scalar]:
        """Unbiased one-draw estimate of the evidence lower bound from a batch of the n data points, and the jitter
        used."""
        walk = self.layer_pass(parameters, key, x)
        bound, jitter = self.output_bound(parameters, walk.model, walk.kernel, y, n)
        return bound - walk.kl, jnp.maximum(walk.jitter, jitter)

    def output_bound(
        self, parameters: dict[str, Any], model: DeepKernelProcess, kernel: Gram, y: Float[Array, "B C"], n: int
    ) -> tuple[Scalar, Scalar]:
        """Bound on log p(y | K) for a batch of the n data points, and the jitter used."""
        if self.collapsed:
            scale = cholesky(kernel.ii)
            return collapsed_bound(kernel, scale, y, self.noise_variance(model))[0], scale.jitter
        law, kl, jitter = pseudo_target_posterior(kernel.ii, *OutputGuide().arrays(parameters["outputs"]))
        likelihood = jnp.sum(model.likelihood.expected_log_density(y, *law.moments(kernel)))
        return likelihood * (n / y.shape[0]) - kl, jitter

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
            return collapsed_bound(walk.kernel, cholesky(walk.kernel.ii), data.y, self.noise_variance(walk.model))[1]
        return pseudo_target_posterior(walk.kernel.ii, *OutputGuide().arrays(parameters["outputs"]))[0]

    def noise_variance(self, model: DeepKernelProcess) -> Scalar:
        """The one noise variance of a Gaussian likelihood."""
        noise = model.likelihood.noise_variance(self.n_outputs)
        assert noise is not None
        return noise[0]

    def learned(self, parameters: dict[str, Any]) -> dict[str, Array]:
        """Values of the learned hyperparameters, by name."""
        return {n: self.hyperparameters[n].constrain(v) for n, v in parameters["learned"].items()}

    def resolve(self, values: dict[str, Array], dtype: Any) -> DeepKernelProcess:
        """The model with these values of its learned and inferred hyperparameters."""
        return resolve(self.model, values, dtype, self.n_features, self.n_outputs)

    def draw_values(self, parameters: dict[str, Any], key: PRNGKeyArray) -> tuple[dict[str, Array], Scalar]:
        """Hyperparameters, learned and drawn, and the log-ratio of guide and prior at the draw."""
        dtype = parameters["inducing"].dtype
        values, kl = self.learned(parameters), jnp.zeros((), dtype)
        for i, (name, guide) in enumerate(parameters["inferred"].items()):
            h = self.hyperparameters[name]
            q = HyperparameterGuide().law(h, guide)
            values[name] = jnp.asarray(q.sample(jax.random.fold_in(key, i)))
            kl += jnp.asarray(q.log_prob(values[name]), dtype) - jnp.asarray(h.prior.log_prob(values[name]), dtype)
        return values, kl


def _no_noise(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
    return kernel
