"""The variational family of a deep kernel process, as functions of one pytree of parameters.

One pass through the layers draws the Gram factors from the guides, adds up the divergences of guide
and prior in closed form, and draws the data blocks from the conditional prior, where they cancel.
The outputs are then integrated out: in closed form for Gaussian noise and the full batch
(collapsed), under a guide of whitened outputs otherwise.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import kl_divergence

from dkp._core.compiled import compiled
from dkp._core.record import static, value
from dkp._core.types import Array, Float, PRNGKeyArray, Scalar
from dkp.bottlenecks.base import Bottleneck
from dkp.data.dataset import Dataset
from dkp.gram.gram import Gram, Inputs
from dkp.guides import BottleneckGuide, HyperparameterGuide, OutputGuide, choose_guides
from dkp.guides.base import GuidePosterior
from dkp.inference.variational.outputs import OutputBatch
from dkp.linalg.cholesky import cholesky
from dkp.model.hyperparameters import Hyperparameter, hyperparameters, resolve
from dkp.model.outputs import OutputLaw, collapsed_bound, whitened_posterior
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import propagate
from dkp.posterior.draw import Draw

__all__ = ["LayerPass", "VariationalFamily"]


@value
class LayerPass:
    """One draw through the layers.

    It has the resolved model, K entering the outputs, and what the draw cost.
    """

    model: DeepKernelProcess
    values: dict[str, Array]
    factors: tuple[Array, ...]
    kernel: Gram
    kl: Scalar
    jitter: Scalar


@value
class VariationalFamily:
    """The variational posterior of a model as functions of one pytree of parameters.

    Args:
        collapsed: integrate the outputs out in closed form; needs Gaussian noise and the full
            batch.
        guides: one a bottleneck; by default the first that fits it.
        stick_the_landing: estimate divergences without a closed form with the guide's parameters
            held fixed in its density: without bias, and without noise where guide and posterior
            agree (Roeder, Wu & Duvenaud 2017).
    """

    model: DeepKernelProcess
    n_features: int = static()
    n_outputs: int = static()
    collapsed: bool = static()
    guides: tuple[BottleneckGuide, ...] | None = static(None)
    stick_the_landing: bool = static(True)

    def guide(self, index: int) -> BottleneckGuide:
        """The guide of the bottleneck `index` (from 1)."""
        return self._guides[index - 1]

    @functools.cached_property
    def _guides(self) -> tuple[BottleneckGuide, ...]:
        return choose_guides(self.model.bottlenecks, "auto" if self.guides is None else self.guides)

    @functools.cached_property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return hyperparameters(self.model, self.n_features, self.n_outputs)

    def init(self, data: Dataset, inducing: Float[Array, "P *space D"]) -> dict[str, Any]:
        """Starting point: hyperparameters from the data, guides at the deterministic network."""
        learned, inferred = {}, {}
        for name, h in self.hyperparameters.items():
            if h.is_learned:
                learned[name] = h.unconstrain(h.initial(data.x, data.rates))
            elif h.is_inferred:
                inferred[name] = HyperparameterGuide().init(h, data.x.dtype)
        parameters = {"inducing": inducing, "learned": learned, "inferred": inferred}
        if not self.collapsed:
            likelihood = self.model.likelihood
            n_latent = likelihood.n_latent(self.n_outputs)
            shared = n_latent == 1 or (likelihood.is_gaussian and not data.has_missing)
            parameters["outputs"] = OutputGuide().init(
                inducing.shape[0], n_latent, data.x.dtype, shared=shared
            )
        return {**parameters, "bottlenecks": _initial_guides(self, parameters)}

    def paces(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """How fast an optimiser moves each of the parameters (see ``Pace``).

        Those of the outputs, which take natural gradients, are not among them.
        """
        guides = parameters["bottlenecks"]
        return {
            "inducing": "kernel",
            "learned": {name: self.hyperparameters[name].pace for name in parameters["learned"]},
            "inferred": jax.tree.map(lambda _: "kernel", parameters["inferred"]),
            "bottlenecks": tuple(
                {name: self.guide(i).paces[name] for name in guide}
                for i, guide in enumerate(guides, start=1)
            ),
        }

    @property
    def starts_deterministic(self) -> bool:
        """Whether all guides start around G = K.

        A fit can then start with the network without noise.
        """
        return all(guide.starts_at_kernel for guide in self._guides)

    def deterministic(
        self, parameters: dict[str, Any], x: Float[Array, "B *space D"]
    ) -> tuple[DeepKernelProcess, Gram]:
        """The network without noise in its bottlenecks: the model, and the last kernel.

        The model is the one at these hyperparameters.

        G is K, or what the guide is centred on where it cannot be.
        """
        model = self.central_model(parameters)

        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            return self.central_gram(index, layer, parameters["bottlenecks"][index - 1], kernel)

        return model, propagate(model.layers, Inputs(i=parameters["inducing"], t=x), bottleneck)

    def central_model(self, parameters: dict[str, Any]) -> DeepKernelProcess:
        """The model at its learned hyperparameters, and at the medians of the inferred ones."""
        inferred = {
            n: HyperparameterGuide().centre(self.hyperparameters[n], q)
            for n, q in parameters["inferred"].items()
        }
        return self.resolve({**self.learned(parameters), **inferred}, parameters["inducing"].dtype)

    def central_gram(self, index: int, layer: Bottleneck, parameters: Any, kernel: Gram) -> Gram:
        """The Gram matrix on which a guide is centred, with the means of its data blocks."""
        guide = self.guide(index)
        if guide.starts_at_kernel:
            return kernel
        scale = cholesky(kernel.ii)
        whitened = guide.centre(layer, parameters, kernel.ii, scale)
        return layer.condition_mean(kernel, scale, scale.tril @ whitened, whitened)

    def layer_pass(
        self, parameters: dict[str, Any], key: PRNGKeyArray, x: Float[Array, "B *space D"] | None
    ) -> LayerPass:
        """One draw of hyperparameters and Gram matrices at the inducing points.

        The data blocks are drawn at `x`.
        """
        inducing = parameters["inducing"]
        values, kl = self.draw_values(parameters, jax.random.fold_in(key, 0))
        model = self.resolve(values, inducing.dtype)
        factors: list[Array] = []
        spent = {"kl": kl, "jitter": jnp.zeros((), inducing.dtype)}

        def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
            key_guide, key_data = jax.random.split(jax.random.fold_in(key, index))
            scale = cholesky(kernel.ii)
            law = self.guide(index).posterior(
                layer, parameters["bottlenecks"][index - 1], kernel.ii, scale
            )
            draw = jnp.asarray(law.q.sample(key_guide))
            whitened = law.unit * draw
            factors.append(scale.tril @ whitened)
            spent["kl"] += self._divergence(law, draw)
            spent["jitter"] = jnp.maximum(spent["jitter"], jnp.maximum(law.jitter, scale.jitter))
            return layer.condition(key_data, kernel, scale, factors[-1], whitened)

        kernel = propagate(model.layers, Inputs(i=inducing, t=x), bottleneck)
        return LayerPass(model=model, values=values, factors=tuple(factors), kernel=kernel, **spent)

    def _divergence(self, law: GuidePosterior, draw: Array) -> Scalar:
        """KL of guide and prior: in closed form, or log q - log p at a draw."""
        try:
            return jnp.asarray(kl_divergence(law.q, law.p))
        except NotImplementedError:
            q = jax.lax.stop_gradient(law.q) if self.stick_the_landing else law.q
            return jnp.asarray(q.log_prob(draw)) - jnp.asarray(law.p.log_prob(draw))

    def elbo(
        self,
        parameters: dict[str, Any],
        key: PRNGKeyArray,
        x: Float[Array, "B *space D"],
        y: Float[Array, "B C"],
        n: int,
        weights: Float[Array, " B"] | None = None,
        offset: Float[Array, "B 1"] | None = None,
    ) -> tuple[Scalar, Scalar]:
        """Unbiased one-draw estimate of the evidence lower bound, and the jitter used.

        It takes a batch of the n data points.

        Args:
            weights: how often each row counts.
            offset: what is added to the latent functions in the likelihood.
        """
        walk = self.layer_pass(parameters, key, x)
        key_outputs = jax.random.fold_in(key, len(walk.factors) + 1)
        batch = OutputBatch(y=y, n=n, weights=weights, offset=offset, key=key_outputs)
        bound, jitter = self.output_bound(parameters, walk.model, walk.kernel, batch)
        return bound - walk.kl, jnp.maximum(walk.jitter, jitter)

    def output_bound(
        self, parameters: dict[str, Any], model: DeepKernelProcess, kernel: Gram, batch: OutputBatch
    ) -> tuple[Scalar, Scalar]:
        """Bound on log p(y | K) for a batch of the data points, and the jitter used.

        The gradient in the parameters of the outputs is not that of the bound, but n (the number of
        data points) times the negative step along the natural gradient: from the parameters to
        those that the batch asks for (:meth:`OutputBatch.sites`).
        """
        scale = cholesky(kernel.ii)
        if self.collapsed:
            return collapsed_bound(kernel, scale, batch.y, self.noise_variance(model))[
                0
            ], scale.jitter
        outputs = jax.lax.stop_gradient(parameters["outputs"])
        law, kl, jitter = whitened_posterior(scale, outputs["linear"], outputs["precision"])
        mean, variance = law.moments(kernel)
        likelihood = batch.share * batch.expected_log_density(model.likelihood, mean, variance)
        shared = outputs["precision"].ndim == 2
        target = jax.lax.stop_gradient(
            batch.sites(model.likelihood, kernel, scale, mean, variance, shared=shared)
        )
        squares = jax.tree.map(
            lambda old, new: jnp.sum((old - new) ** 2) / 2, parameters["outputs"], target
        )
        step = sum(jax.tree.leaves(squares), jnp.zeros((), likelihood.dtype))
        bound = likelihood - kl - batch.n * (step - jax.lax.stop_gradient(step))
        return bound, jnp.maximum(jitter, scale.jitter)

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
        scale = cholesky(walk.kernel.ii)
        if self.collapsed:
            return collapsed_bound(walk.kernel, scale, data.y, self.noise_variance(walk.model))[1]
        return whitened_posterior(
            scale, parameters["outputs"]["linear"], parameters["outputs"]["precision"]
        )[0]

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

    def draw_values(
        self, parameters: dict[str, Any], key: PRNGKeyArray
    ) -> tuple[dict[str, Array], Scalar]:
        """Hyperparameters, learned and drawn, and the log-ratio of guide and prior at the draw."""
        dtype = parameters["inducing"].dtype
        values, kl = self.learned(parameters), jnp.zeros((), dtype)
        for i, (name, guide) in enumerate(parameters["inferred"].items()):
            h = self.hyperparameters[name]
            q = HyperparameterGuide().law(h, guide)
            values[name] = jnp.asarray(q.sample(jax.random.fold_in(key, i)))
            kl += jnp.asarray(q.log_prob(values[name]), dtype) - jnp.asarray(
                h.prior.log_prob(values[name]), dtype
            )
        return values, kl


@compiled()
def _initial_guides(
    family: VariationalFamily, parameters: dict[str, Any]
) -> tuple[dict[str, Array], ...]:
    guides: list[dict[str, Array]] = []

    def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        guides.append(family.guide(index).init(layer, kernel.ii))
        return family.central_gram(index, layer, guides[-1], kernel)

    model = family.central_model(parameters)
    propagate(model.layers, Inputs(i=parameters["inducing"]), bottleneck)
    return tuple(guides)
