"""Variational inference: ``dkp.fit_vi`` and the posterior that it returns."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dkp import _check
from dkp._compiled import compiled
from dkp._types import Array, Float, PRNGKeyArray
from dkp.data import Dataset
from dkp.guides import GuideChoice, choose_guides
from dkp.inference.checks import check_model_and_data
from dkp.inference.family import VariationalFamily
from dkp.inference.loop import Batches, LoopResult, minimise
from dkp.inference.start import fit_deterministic, inducing_points, natural_outputs, optimal_outputs
from dkp.model import DeepKernelProcess
from dkp.posterior import Draw, moments_row_by_row
from dkp.progress import Progress

__all__ = ["VariationalPosterior", "default_optimizer", "fit_vi", "negative_elbo", "prepare"]

_SUBSET = 2_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariationalPosterior:
    """A fitted variational posterior.

    parameters: of the best state. elbo_trace: nats per data point on the standardised targets, every step. jitter:
        the largest
    added to a diagonal. skipped: steps that were not finite and changed nothing. stopped: "finished", "converged" or
    "interrupted". seconds: of optimisation, compilation included.
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
        """The model that was fitted."""
        return self.family.model

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the learned hyperparameters, by name."""
        return {name: np.asarray(v) for name, v in self.family.learned(self.parameters).items()}

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n draws of networks."""
        return _draws(self.family, self.parameters, jax.random.split(key, n), self.data)

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
        """Mean and variance of the latent functions at standardised points, given each draw of a stack."""
        return moments_row_by_row(self.model, self.data.n_outputs, draws, key, x, chunk)

    def elbo(self, key: PRNGKeyArray, n: int = 100) -> tuple[float, float]:
        """Evidence lower bound on all data (nats, standardised targets) from n draws, and its standard error."""
        n = _check.positive_int("n", n)
        values = np.asarray(_elbos(self.family, self.parameters, jax.random.split(key, n), self.data), float)
        return float(values.mean()), float(values.std(ddof=min(1, n - 1)) / np.sqrt(n))

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        recent = self.elbo_trace[-100:]
        return {
            "engine": "vi",
            "guides": [self.family.guide(i + 1).name for i in range(len(self.model.bottlenecks))],
            "steps": len(self.elbo_trace),
            "elbo_per_point": float(np.nanmean(recent)) if np.isfinite(recent).any() else float("nan"),
            "stopped": self.stopped,
            "skipped": self.skipped,
            "jitter": self.jitter,
            "seconds": self.seconds,
        }


def fit_vi(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    n_inducing: int = 100,
    batch_size: int | None = None,
    steps: int = 2000,
    samples: int = 1,
    optimizer: optax.GradientTransformation | None = None,
    start_steps: int = 500,
    collapse: bool | None = None,
    guide: GuideChoice | Sequence[GuideChoice] = "auto",
    stick_the_landing: bool = True,
    chunk: int = 50,
    patience: int | None = None,
    progress: bool | None = None,
) -> VariationalPosterior:
    """Fit a deep kernel process by maximising the evidence lower bound (ELBO).

    The fit has two stages: `start_steps` steps on the network without noise in its bottlenecks, then `steps` steps on
    the ELBO. Ctrl-C ends either stage and returns the best state so far. With a Wishart bottleneck there is no first
    stage, because a matrix of low rank cannot be the kernel matrix without noise: features that are fitted without
    their noise hide the data as soon as it is there.

    Args:
        model: any layers that have a variational guide, any likelihood.
        data: standardised data.
        key: for everything random.
        n_inducing: number of inducing points; fewer where there are fewer distinct rows.
        batch_size: rows a step; all of them by default.
        steps: of the second stage.
        samples: draws a step.
        optimizer: of the second stage; by default that of :func:`default_optimizer`.
        start_steps: of the first stage; 0 skips it.
        collapse: integrate the outputs out in closed form. By default this is done wherever it can be: Gaussian noise
            and the full batch.
        guide: of the bottlenecks: a name, a guide, or one of these for each. "standard", "a", "b" and "ab" are
            generalised Wishart laws, without and with mixing of rows and columns; "features" is the posterior of a deep
            Gaussian process; "inverse-wishart" is for inverse Wishart bottlenecks. A single one is for all bottlenecks
            that it fits. "auto" takes "ab" for Wishart bottlenecks; the summary says what was taken.
        stick_the_landing: for guides whose divergence has no closed form, see :class:`VariationalFamily`.
        chunk: steps between two looks at the trace (progress, best state, early stopping, Ctrl-C).
        patience: stop early after so many chunks without an improvement beyond the noise of the trace; never, by
            default.
        progress: show a progress bar; by default on terminals and in notebooks.

    Returns:
        the posterior, with the ELBO trace, the jitter used and the steps skipped.

    Raises:
        ValueError: for arguments out of range, a bottleneck without a guide, or ``collapse=True`` where it is not
            possible.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590); outputs: Titsias 2009 and Ober & Aitchison 2021 (arXiv
        2005.08140).
    """
    check_model_and_data(model, data)
    _check.random_key("key", key)
    for name, number in {"steps": steps, "samples": samples, "chunk": chunk}.items():
        _check.positive_int(name, number)
    if patience is not None:
        _check.positive_int("patience", patience)
    if start_steps:
        _check.positive_int("start_steps", start_steps)
    key_prepare, key_start, key_fit = jax.random.split(key, 3)
    family, parameters, batches = prepare(
        model,
        data,
        key=key_prepare,
        n_inducing=n_inducing,
        batch_size=batch_size,
        collapse=collapse,
        guide=guide,
        stick_the_landing=stick_the_landing,
    )
    start_steps = start_steps if family.starts_deterministic else 0
    with Progress(start_steps + steps, label="fit_vi", enabled=progress) as bar:
        if start_steps:
            parameters, start = _start(family, parameters, data, key_start, start_steps, batches, chunk, bar)
            if start.stopped == "interrupted":
                return _posterior(family, data, dataclasses.replace(start, parameters=parameters, trace=np.zeros(0)))
        result = minimise(
            negative_elbo(family, data.n, samples),
            parameters,
            natural_outputs(
                default_optimizer(steps, started=start_steps > 0) if optimizer is None else optimizer, steps
            ),
            key=key_fit,
            steps=steps,
            data=(data.x, data.y),
            batches=batches,
            chunk=chunk,
            patience=patience,
            progress=bar.offset(start_steps),
        )
    return _posterior(family, data, result)


def prepare(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray,
    n_inducing: int,
    batch_size: int | None = None,
    collapse: bool | None = None,
    guide: GuideChoice | Sequence[GuideChoice] = "auto",
    stick_the_landing: bool = True,
) -> tuple[VariationalFamily, dict[str, Any], Batches | None]:
    """The family, its parameters before any fitting, and the minibatches (None for the full batch)."""
    _check.positive_int("n_inducing", n_inducing)
    full = batch_size is None or _check.positive_int("batch_size", batch_size) >= data.n
    possible = full and model.likelihood.is_gaussian
    if collapse and not possible:
        raise ValueError(
            "Expected Gaussian noise and the full batch with collapse=True. Got another likelihood or minibatches."
        )
    family = VariationalFamily(
        model=model,
        n_features=data.d,
        n_outputs=data.n_outputs,
        collapsed=possible if collapse is None else collapse,
        guides=choose_guides(model.bottlenecks, guide),
        stick_the_landing=stick_the_landing,
    )
    key_points, key_batches = jax.random.split(key)
    inducing = inducing_points(data, n_inducing, key_points)
    for layer in model.bottlenecks:
        layer.check_points(len(inducing))
    parameters = family.init(data, inducing)
    seed = int(jax.random.randint(key_batches, (), 0, 2**31 - 1))
    return family, parameters, None if full or batch_size is None else Batches(data.n, batch_size, seed)


def negative_elbo(family: VariationalFamily, n: int, samples: int) -> Any:
    """The loss of the second stage: minus the ELBO per data point, averaged over `samples` draws."""

    def loss(parameters: Any, key: PRNGKeyArray, batch: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
        x, y = batch
        keys = jax.random.split(key, samples)
        elbo, jitter = jax.vmap(lambda k: family.elbo(parameters, k, x, y, n))(keys)
        return -jnp.mean(elbo) / n, {"jitter": jnp.max(jitter)}

    return loss


def default_optimizer(steps: int, *, started: bool = True) -> optax.GradientTransformation:
    """Adam with a cosine decay to 1% and one learning rate for each kind of parameter.

    Adam moves every entry by its learning rate whatever the gradient's noise. After a first stage (`started`) the
    guides' matrices are where they should be and move slowly (0.001), kernels and inducing points faster (0.003).
    Without it these have far to go (0.02). What is measured in standard deviations of a guide moves faster (0.05), and
    so do the logarithms of concentrations (0.03).
    """
    rates = {"matrix": 1e-3, "other": 3e-3 if started else 2e-2, "deviations": 5e-2, "concentration": 3e-2}
    schedules: Any = {
        kind: optax.adam(optax.cosine_decay_schedule(rate, steps, alpha=0.01)) for kind, rate in rates.items()
    }
    return optax.multi_transform(schedules, lambda parameters: jax.tree_util.tree_map_with_path(_kind, parameters))


_KINDS = {
    **dict.fromkeys(("mixing", "mixed"), "matrix"),
    **dict.fromkeys(("loc", "log_scale", "log_concentration", "log_rate", "target"), "deviations"),
    **dict.fromkeys(("log_gamma", "log_precision"), "concentration"),
}


def _kind(path: tuple[Any, ...], _: Array) -> str:
    name = jax.tree_util.keystr(path)
    if name.startswith("['bottlenecks']"):
        return _KINDS.get(path[-1].key, "other")
    return "concentration" if name.endswith(".delta']") else "other"


def _start(
    family: VariationalFamily,
    parameters: dict[str, Any],
    data: Dataset,
    key: PRNGKeyArray,
    steps: int,
    batches: Batches | None,
    chunk: int,
    bar: Progress,
) -> tuple[dict[str, Any], LoopResult]:
    """The first stage. With Gaussian noise it is collapsed, on a subset of a large data set, whatever the second
    stage is."""
    if family.collapsed or not family.model.likelihood.is_gaussian:
        return fit_deterministic(
            family, parameters, data, key=key, steps=steps, batches=batches, chunk=chunk, progress=bar
        )
    rows = jax.random.choice(key, data.n, (min(data.n, _SUBSET),), replace=False)
    subset = dataclasses.replace(data, x=data.x[rows], y=data.y[rows])
    collapsed = dataclasses.replace(family, collapsed=True)
    outputs = parameters["outputs"]
    inner = {name: v for name, v in parameters.items() if name != "outputs"}
    fitted, result = fit_deterministic(
        collapsed, inner, subset, key=key, steps=steps, batches=None, chunk=chunk, progress=bar
    )
    optimal = optimal_outputs(family, fitted, subset.x, subset.y, data.n)
    finite = all(bool(jnp.all(jnp.isfinite(v))) for v in optimal.values())
    return {**fitted, "outputs": optimal if finite else outputs}, result


def _posterior(family: VariationalFamily, data: Dataset, result: LoopResult) -> VariationalPosterior:
    return VariationalPosterior(
        family=family,
        parameters=result.parameters,
        data=data,
        elbo_trace=-result.trace,
        jitter=result.jitter,
        skipped=result.skipped,
        stopped=result.stopped,
        seconds=result.seconds,
    )


@compiled()
def _draws(family: VariationalFamily, parameters: Any, keys: Array, data: Dataset) -> Draw:
    return jax.lax.map(lambda key: family.draw(parameters, key, data), keys)


@compiled()
def _elbos(family: VariationalFamily, parameters: Any, keys: Array, data: Dataset) -> Array:
    return jax.lax.map(lambda key: family.elbo(parameters, key, data.x, data.y, data.x.shape[0])[0], keys)
