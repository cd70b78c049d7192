"""The deep kernel process: layers and a likelihood, as a description and as a NumPyro model."""

import warnings
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer

from dkp._core.description import Spec, part
from dkp._core.types import Array
from dkp.bottlenecks.base import Bottleneck
from dkp.gram.gram import Gram, Inputs
from dkp.kernels.base import Kernel
from dkp.kernels.inputs import Linear
from dkp.likelihoods.base import Likelihood, fill_missing
from dkp.linalg.cholesky import cholesky
from dkp.linalg.diagonals import squared_norms
from dkp.model.hyperparameters import check_hyperparameters, hyperparameters, resolve
from dkp.model.propagate import propagate

__all__ = ["DeepKernelProcess"]


class DeepKernelProcess(Spec):
    """A deep kernel process with Gaussian process outputs.

    Given the last kernel K, f ~ N(0, K), and y | f has the likelihood.

    Args:
        layers: kernels and bottlenecks, in the order of computation. The first may be an input
            kernel (``kernels.Linear``); where it is not, the Gram matrix x x^T / D of the features
            comes first.
        likelihood: the law of y given f. All outputs (columns of y) share the kernel.

    Raises:
        ValueError: when the list is empty, holds something that is no layer, or has an input kernel
            anywhere but first.

    Examples:
        >>> import dkp
        >>> kernel = dkp.kernels.SquaredExponential(1.0, 1.0)
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[kernel, dkp.InverseWishart(5.0), kernel],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> print(len(model.layers))
        3
    """

    layers: tuple[Kernel | Bottleneck, ...] = part()
    likelihood: Likelihood = part()

    def __init__(self, *, layers: Sequence[Any], likelihood: Likelihood) -> None:
        checked = _check_layers(layers)
        if not isinstance(likelihood, Likelihood):
            raise ValueError(
                "Expected likelihood to be one of dkp.likelihoods, such as Gaussian(). Got "
                f"{likelihood!r}."
            )
        object.__setattr__(self, "layers", checked)
        object.__setattr__(self, "likelihood", likelihood)

    @property
    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, Bottleneck))

    def numpyro(
        self, x: Any, y: Any = None, *, inducing: Any = None, n_outputs: int | None = None
    ) -> Array:
        """The NumPyro model, on all data or with inducing points.

        Sites: ``gram_1``, ``gram_2``, … are the Cholesky factors S of the bottlenecks' Gram
        matrices (G = S S^T); inferred hyperparameters stand under their names
        (``layers.0.weights``) and learned ones are parameters of those names. A Gaussian likelihood
        is collapsed (y ~ N(0, K + s^2 I)) where no target is NaN, that is, missing; otherwise the
        site ``f`` holds the latent functions, as L_K times a standard normal ``f_whitened``. With
        `inducing`, the data blocks are drawn from the conditional prior (no sites; a random key is
        needed), ``u`` holds the outputs at the inducing points, and ``f`` is their conditional draw
        at the data.

        Args:
            x: features (N, D), or images (N, H, W, D), taken as they are.
            y: targets, (N, C) or (N,), or None to draw them.
            inducing: features of the inducing points, (P, D), or images.
            n_outputs: C, where y is not given; 1 by default.

        Returns:
            y, observed or drawn, (N, C).

        Raises:
            ValueError: for shapes that do not fit together, or a bottleneck that has no law at so
                many points.
        """
        missing = _has_missing(y)
        x = jnp.asarray(x)
        y = None if y is None else (jnp.asarray(y)[:, None] if jnp.ndim(y) == 1 else jnp.asarray(y))
        _check_shapes(x, y, inducing)
        for layer in self.bottlenecks:
            layer.check_points(x.shape[0] if inducing is None else jnp.shape(inducing)[0])
        columns = y.shape[1] if y is not None else 1 if n_outputs is None else n_outputs
        model = self._with_sites(x, y, columns)
        if inducing is None:
            gram = propagate(model.layers, Inputs(i=x), _sample_bottleneck)
            return _observe_all(model.likelihood, gram, y, columns, missing)
        gram = propagate(model.layers, Inputs(i=jnp.asarray(inducing), t=x), _sample_bottleneck)
        return _observe_inducing(model.likelihood, gram, y, columns, missing)

    def _with_sites(self, x: Array, y: Array | None, n_outputs: int) -> "DeepKernelProcess":
        values = {}
        targets = jnp.zeros((x.shape[0], n_outputs), x.dtype) if y is None else y
        found = hyperparameters(self, x.shape[-1], n_outputs)
        check_hyperparameters(found)
        for name, h in found.items():
            if h.is_inferred:
                values[name] = _sample(name, h.prior)
            elif h.is_learned:
                values[name] = numpyro.param(name, h.initial(x, targets), constraint=h.constraint)
        return resolve(self, values, x.dtype, x.shape[-1], n_outputs)


def _sample_bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
    scale = cholesky(kernel.ii)
    factor = _sample(f"gram_{index}", layer.prior(scale))
    if kernel.ti is None:
        return Gram(ii=factor @ factor.T)
    return layer.condition(_key(f"gram_{index}"), kernel, scale, factor)


def _observe_all(
    likelihood: Likelihood, gram: Gram, y: Array | None, n_outputs: int, missing: bool
) -> Array:
    size, dtype = gram.ii.shape[0], gram.ii.dtype
    noise = likelihood.noise_variance(n_outputs)
    if noise is not None and not missing:
        tril = cholesky(gram.ii + noise[0] * jnp.eye(size, dtype=dtype)).tril
        law = dist.MatrixNormal(
            jnp.zeros((size, n_outputs), dtype), tril, jnp.eye(n_outputs, dtype=dtype)
        )
        return _sample("y", law, y)
    whitened = _sample("f_whitened", _standard_normal(size, likelihood.n_latent(n_outputs), dtype))
    f = cast(Array, numpyro.deterministic("f", cholesky(gram.ii).tril @ whitened))
    return _observe(likelihood, f, y, missing)


def _observe_inducing(
    likelihood: Likelihood, gram: Gram, y: Array | None, n_outputs: int, missing: bool
) -> Array:
    assert gram.ti is not None and gram.tt is not None
    scale, dtype = cholesky(gram.ii), gram.ii.dtype
    shape = (scale.tril.shape[0], likelihood.n_latent(n_outputs))
    whitened = _sample("u_whitened", _standard_normal(*shape, dtype))
    numpyro.deterministic("u", scale.tril @ whitened)
    projected = gram.ti @ scale.inverse.T
    variance = jnp.maximum(gram.tt - squared_norms(projected), 0)
    noise = jax.random.normal(_key("f"), (gram.tt.shape[0], shape[1]), dtype)
    f = cast(
        Array,
        numpyro.deterministic("f", projected @ whitened + jnp.sqrt(variance)[:, None] * noise),
    )
    return _observe(likelihood, f, y, missing)


def _observe(likelihood: Likelihood, f: Array, y: Array | None, missing: bool) -> Array:
    """Targets given latent functions.

    Those that are missing stand as some number of the support in the site and have no density.
    """
    if y is None or not missing:
        return _sample("y", likelihood.conditional(f).to_event(1), y)
    law = likelihood.law(f)
    return _sample("y", law.mask(~jnp.isnan(y)).to_event(2), fill_missing(y, law.support))


def _has_missing(y: Any) -> bool:
    """Whether a target is NaN; of targets that are being traced, nothing is known."""
    return (
        y is not None
        and not isinstance(y, Tracer)
        and bool(np.isnan(np.asarray(y, np.float64)).any())
    )


def _sample(site: str, law: dist.Distribution, observed: Array | None = None) -> Array:
    return cast(Array, numpyro.sample(site, law, obs=observed))


def _standard_normal(rows: int, columns: int, dtype: jnp.dtype) -> dist.Distribution:
    return dist.Normal(
        jnp.zeros((rows, columns), dtype), jnp.ones((rows, columns), dtype)
    ).to_event(2)


def _key(site: str) -> Array:
    key = numpyro.prng_key()
    if key is None:
        raise ValueError(
            f"Expected a random key for the draws behind {site}. Got none: wrap the model in "
            "numpyro.handlers.seed."
        )
    return key


def _check_layers(layers: Sequence[Any]) -> tuple[Any, ...]:
    layers = tuple(layers) if isinstance(layers, (list, tuple)) else (layers,)
    if not layers:
        raise ValueError(
            "Expected at least one layer, such as kernels.SquaredExponential(). Got an empty list."
        )
    for position, layer in enumerate(layers):
        if not isinstance(layer, (Kernel, Bottleneck)):
            raise ValueError(
                f"Expected layers[{position}] to be a kernel or a bottleneck: Linear(), not "
                f"Linear. Got {layer!r}."
            )
        if isinstance(layer, Kernel) and layer.takes_features and position > 0:
            raise ValueError(
                f"Expected an input kernel only as the first layer. Got {layer!r} at "
                f"layers[{position}]."
            )
    random = tuple(
        layer for layer in layers if not (isinstance(layer, Bottleneck) and layer.is_identity)
    )
    if len(random) < len(layers):
        warnings.warn(
            "A bottleneck of infinite width is no bottleneck: its Gram matrix is the kernel "
            "matrix that enters. The "
            "model is made without it.",
            stacklevel=3,
        )
    return random or (Linear(),)


def _check_shapes(x: Array, y: Array | None, inducing: Array | None) -> None:
    if x.ndim not in (2, 4):
        raise ValueError(
            f"Expected x of shape (N, D), or images (N, H, W, D). Got shape {x.shape}."
        )
    if y is not None and (y.ndim != 2 or y.shape[0] != x.shape[0]):
        raise ValueError(
            f"Expected y of shape ({x.shape[0]},) or ({x.shape[0]}, C). Got shape {y.shape}."
        )
    if inducing is not None and jnp.shape(inducing)[1:] != x.shape[1:]:
        raise ValueError(
            f"Expected inducing of shape (P, {str(x.shape[1:])[1:]}. Got shape "
            f"{jnp.shape(inducing)}."
        )
