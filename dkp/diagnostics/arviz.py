"""Posteriors as ArviZ data: InferenceData with ArviZ 0.x, an xarray DataTree with 1.x.

Every draw is one network, and one value of f at every training point drawn from its marginal given
that network. The pointwise log-likelihood is log p(y_n | f_n) at that value: what PSIS-LOO and WAIC
need, since leaving y_n out reweights f_n by 1 / p(y_n | f_n). Draws of networks from the exact
posterior under Gaussian noise have a better one, log p(y_n | all other y, network), whose inverses
are the same weights after f is integrated out (PSIS-LOO only).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.types import Array, PRNGKeyArray
from dkp._version import __version__
from dkp.diagnostics.grams import gram_summaries
from dkp.model.hyperparameters import Hyperparameter, hyperparameters, resolve
from dkp.posterior.draw import Draw
from dkp.posterior.predict import predict
from dkp.posterior.prediction import Prediction
from dkp.posterior.protocol import InChains, Posterior, SampleStatistics

__all__ = ["to_arviz"]

_LARGEST_LATENT = 1_000_000  # numbers; above that, f would make up most of the file


def to_arviz(
    posterior: Posterior,
    *,
    key: PRNGKeyArray,
    n_samples: int | None = None,
    x: Any = None,
    chunk: int = 1000,
    grams: bool = False,
) -> Any:
    """The posterior as ArviZ data.

    ArviZ's summaries, plots and comparisons (``az.loo``, ``az.compare``) take it.

    Groups: ``posterior`` (hyperparameters under their names; ``gram_1_log_det`` and
    ``gram_1_trace`` of the first bottleneck's Gram matrix at the inducing points,
    ``gram_1_effective_rank`` or, of Markov chains, ``gram_1_alignment`` with the label kernel, and
    so on; ``f`` at the training points, in standardised units, unless that is more than a million
    numbers), ``posterior_predictive`` (y at the training points), ``log_likelihood`` (one value a
    data row, original units: log p(y_n | y without y_n, network) of Markov chains with Gaussian
    noise, whose outputs are integrated out, and log p(y_n | f_n) of others, both fit for PSIS-LOO
    and not for sums over rows), ``observed_data``, ``constant_data`` (features) and, with `x`,
    ``predictions`` and ``predictions_constant_data``; of Markov chains also ``sample_stats``
    (divergences, energy, tree depth, steps, step size, acceptance). All but f are in the original
    units. Given a draw, the values of f and y at different points are drawn from their marginals,
    independently.

    Args:
        posterior: of any engine.
        key: for the draws.
        n_samples: number of draws, of all chains together; at least as many where every k-th draw
            of Markov chains is taken. By default all that these have kept, and 100 in one chain of
            other posteriors; PSIS-LOO wants hundreds.
        x: new points (B, D), in the original units, for the group ``predictions``.
        chunk: rows computed at a time; the result does not depend on it.
        grams: whether ``posterior`` has the Gram matrices themselves, ``gram_1`` of shape (P, P)
            and so on; they are large.

    Returns:
        ``arviz.InferenceData``, or an ``xarray.DataTree`` with ArviZ 1.x.

    Raises:
        ValueError: for what is no posterior or no key, and when `x` does not have the features of
            the training data.
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(
            "Expected a posterior, such as one of dkp.fit_vi or dkp.sample_hmc. Got "
            f"{type(posterior).__name__}."
        )
    checks.random_key("key", key)
    key_draws, key_train, key_new, key_f = jax.random.split(key, 4)
    if n_samples is not None:
        checks.positive_int("n_samples", n_samples)
    data = posterior.data
    features = data.x_standardization.undo(data.x)
    draws, n_draws, thin = _draws(posterior, key_draws, n_samples)
    prediction = predict(
        posterior, features, key=key_train, n_samples=n_draws, chunk=chunk, draws=draws
    )
    # A posterior that is known exactly gives one draw of the network: it stands for all.
    which = jnp.arange(n_draws) % prediction.latent_mean.shape[0]
    values = {name: value[which] for name, value in draws.values.items()}
    f = _latent(prediction, which, key_f)
    y, log_likelihood = _outcomes(posterior, values, f, jax.random.fold_in(key_f, 1))
    if isinstance(posterior, InChains) and posterior.model.likelihood.is_gaussian and data.is_plain:
        log_likelihood = np.asarray(posterior.leave_one_out(draws), float) - _log_scale(posterior)
    kept = {"f": f} if f.size <= _LARGEST_LATENT else {}
    matrices = _matrices(posterior, draws, np.asarray(which)) if grams else {}
    groups = {
        "posterior": {
            **values,
            **_summaries(posterior, draws, np.asarray(which), thin),
            **matrices,
            **kept,
        },
        "posterior_predictive": {"y": data.undo_targets(y)},
        "log_likelihood": {"y": log_likelihood},
        "observed_data": {"y": data.undo_targets(data.y)},
        "constant_data": {"x": features},
    }
    if isinstance(posterior, SampleStatistics):
        groups["sample_stats"] = {name: _thinned(a, thin) for name, a in posterior.stats.items()}
    if x is not None:
        new = predict(posterior, x, key=key_new, n_samples=n_draws, chunk=chunk, draws=draws)
        groups["predictions"] = {"y": new.samples}
        groups["predictions_constant_data"] = {
            "x": data.x_standardization.undo(data.standardize_inputs(x))
        }
    return _convert(groups, posterior)


def _draws(posterior: Posterior, key: PRNGKeyArray, n_samples: int | None) -> tuple[Draw, int, int]:
    """The draws of all chains, their number, and of how many of a chain one is taken."""
    if not isinstance(posterior, InChains):
        n = 100 if n_samples is None else n_samples
        return posterior.sample(key, n), n, 1
    total = posterior.n_chains * posterior.n_draws
    thin = 1 if n_samples is None else max(1, total // n_samples)
    return posterior.chains(thin), posterior.n_chains * -(-posterior.n_draws // thin), thin


def _thinned(stacked: np.ndarray, thin: int) -> np.ndarray:
    """(chains, draws, …) as one stack, chain after chain."""
    kept = stacked[:, ::thin]
    return kept.reshape(-1, *kept.shape[2:])


def _latent(prediction: Prediction, which: Array, key: PRNGKeyArray) -> Array:
    """f_n from its marginal given each draw, (S, N, Q)."""
    mean, variance = prediction.latent_mean[which], prediction.latent_variance[which]
    return mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape, mean.dtype)


def _outcomes(
    posterior: Posterior, values: dict[str, Array], f: Array, key: PRNGKeyArray
) -> tuple[Array, np.ndarray]:
    """y drawn from p(y | f), and log p(y_n | f_n) of the observed y; (S, N, C) and (S, N).

    The first are standardised, the second in original units.
    """
    data = posterior.data

    def one(draw: tuple[PRNGKeyArray, dict[str, Array], Array]) -> tuple[Any, Any]:
        key, values, f = draw
        likelihood = resolve(posterior.model, values, f.dtype, data.d, data.n_outputs).likelihood
        f = f if data.log_exposure is None else f + data.log_exposure
        return likelihood.conditional(f).sample(key), likelihood.log_density(data.y, f)

    keys = jax.random.split(key, f.shape[0])
    y, log_prob = jax.jit(lambda *draws: jax.lax.map(one, draws))(keys, values, f)
    return y, np.asarray(log_prob, float) - _log_scale(posterior)


def _log_scale(posterior: Posterior) -> np.ndarray:
    """What the log-densities of the rows lose on the way to the original units, (N,)."""
    observed = ~np.isnan(np.asarray(posterior.data.y))
    return np.sum(observed * np.log(np.asarray(posterior.data.y_standardization.scale)), axis=1)


def _summaries(
    posterior: Posterior, draws: Draw, which: np.ndarray, thin: int
) -> dict[str, np.ndarray]:
    if isinstance(posterior, SampleStatistics):
        return {
            n: _thinned(a, thin) for n, a in posterior.functionals.items() if n.startswith("gram_")
        }
    return {
        f"gram_{layer}_{name}": values[which]
        for layer, factor in enumerate(draws.factors, start=1)
        for name, values in gram_summaries(factor).items()
    }


def _matrices(posterior: Posterior, draws: Draw, which: np.ndarray) -> dict[str, np.ndarray]:
    """Gram matrices at the inducing points.

    They are at the data rows in their own order where these are all of them.
    """
    in_order = jax.vmap(posterior.in_data_order) if isinstance(posterior, InChains) else jnp.asarray
    found = {}
    for i, factor in enumerate(draws.factors, start=1):
        rows = np.asarray(in_order(factor))[which]
        found[f"gram_{i}"] = rows @ rows.transpose(0, 2, 1)
    return found


def _convert(groups: dict[str, dict[str, Any]], posterior: Posterior) -> Any:
    import arviz as az
    import xarray as xr

    attributes = _attributes(posterior)
    datasets = {
        name: _dataset(name, variables, posterior, attributes) for name, variables in groups.items()
    }
    if int(az.__version__.partition(".")[0]) >= 1:
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attributes), **datasets})
    return az.InferenceData(**datasets, attrs=attributes)


def _dataset(
    group: str, variables: dict[str, Any], posterior: Posterior, attributes: dict[str, Any]
) -> Any:
    """One group: draws stand on the axes (chain, draw)."""
    import xarray as xr

    data, dims = posterior.data, _dims(posterior)
    sampled = not group.endswith("data")
    leading = ["chain", "draw"] if sampled else []
    if group == "log_likelihood":
        dims["y"] = ["row"]  # one value a row, all outputs together
    chains = posterior.n_chains if isinstance(posterior, InChains) else 1
    arrays = {
        name: _by_chain(v, chains) if sampled else np.asarray(v) for name, v in variables.items()
    }
    found = {name: ([*leading, *dims.get(name, [])], array) for name, array in arrays.items()}
    names: dict[Any, Any] = {"feature": list(data.feature_names), "output": list(data.target_names)}
    coords = {
        axis: names.get(axis, np.arange(size)) for axis, size in xr.Dataset(found).sizes.items()
    }
    return xr.Dataset(found, coords=coords, attrs=attributes)


def _by_chain(stack: Any, chains: int) -> np.ndarray:
    values = np.asarray(stack)
    return values.reshape(chains, -1, *values.shape[1:])


def _dims(posterior: Posterior) -> dict[str, list[str]]:
    data, targets = posterior.data, [] if posterior.data.y_was_vector else ["output"]
    named = {
        name: _axes(h)
        for name, h in hyperparameters(posterior.model, data.d, data.n_outputs).items()
    }
    pixels = ["height", "width"] if data.x.ndim == 4 else []
    count = range(1, len(posterior.model.bottlenecks) + 1)
    grams = {f"gram_{layer}": ["point", "other_point"] for layer in count}
    return {
        **named,
        **grams,
        "x": ["row", *pixels, "feature"],
        "y": ["row", *targets],
        "f": ["row", "latent"],
    }


def _axes(h: Hyperparameter) -> list[str]:
    """Names of a hyperparameter's axes.

    They are told apart by asking for its shape with sizes that no data set has.
    """
    sizes = {-1: "feature", -2: "output"}
    shape = h.owner.hyperparameter_shapes(-1, -2).get(h.name.rsplit(".", 1)[-1], ())
    return [sizes.get(size, f"{h.name}_axis_{axis}") for axis, size in enumerate(shape)]


def _attributes(posterior: Posterior) -> dict[str, Any]:
    """Library, version and the engine's summary, as values that netCDF can hold."""
    summary = {name: _plain(value) for name, value in posterior.summary().items()}
    return {
        "inference_library": "dkp",
        "inference_library_version": __version__,
        "model": repr(posterior.model),
        **summary,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return list(map(float, value)) if isinstance(value, tuple) else value
