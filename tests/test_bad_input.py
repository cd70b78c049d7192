"""What a careless user hands over: it works, or an error names the argument and the remedy before
anything compiles."""

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest

import dkp
from dkp import kernels, likelihoods
from tests.support import relaxed, relaxed_optimizer

KEY = jax.random.key(0)
RNG = np.random.default_rng(6)
X = RNG.normal(size=(7, 2))
Y = X[:, 0] + 0.1 * RNG.normal(size=7)


def gp():
    return dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(bias=0.2),
            kernels.SquaredExponential(lengthscale=1.0, variance=1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=0.2),
    )


def deep():
    return dkp.DeepKernelProcess(
        layers=[kernels.Linear(ard=True), dkp.InverseWishart(), kernels.ArcCosine(1)],
        likelihood=likelihoods.Gaussian(),
    )


def fit(model=None, data=None, **options):
    options = {
        "key": KEY,
        "steps": 2,
        "start_steps": 0,
        "samples": 1,
        "n_inducing": 4,
        "progress": False,
    } | options
    options.setdefault("optimizer", relaxed_optimizer(optax.adam(0.01)))
    data = dkp.Dataset.from_arrays(X, Y) if data is None else data
    return dkp.fit_vi(deep() if model is None else model, data, **options)


def predicted(posterior, x):
    """Everything that a prediction offers is finite."""
    p = dkp.predict(posterior, x, key=KEY, n_samples=3)
    with relaxed():  # NumPyro draws standard normals in JAX's default dtype
        samples = p.samples
    for values in (p.mean, p.variance, p.quantile(0.9), samples):
        assert np.all(np.isfinite(values))
    assert np.all(p.variance > 0)
    return p


# --- input that works -----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 3], ids=["once", "three times"])
@pytest.mark.rows(1)
def test_a_clean_data_set_for_comparison(replicas):
    posterior = fit(data=dkp.Dataset.from_arrays(np.tile(X, (replicas, 1)), np.tile(Y, replicas)))
    predicted(posterior, X[:2])
    assert posterior.skipped == 0


DIFFICULT = {
    "one feature": (X[:, :1], Y),
    "one feature as a vector": (X[:, 0], Y),
    "a constant column": (np.column_stack([X[:, 0], np.full(7, 3.0)]), Y),
    "only constant columns": (np.ones((7, 2)), Y),
    "duplicate rows": (X[[0, 0, 0, 1, 1, 2, 2]], Y),
    "fewer points than inducing points": (X[:2], Y[:2]),
    "one point": (X[:1], Y[:1]),
    "constant targets": (X, np.full(7, 2.5)),
    "targets of scale 1e6": (X, 1e6 * Y),
    "targets of scale 1e-6": (X, 1e-6 * Y),
    "targets far from zero": (X, 1e6 + Y),
    "features of scale 1e6": (1e6 * X, Y),
}


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype("float64")], ids=str)
@pytest.mark.parametrize("name", DIFFICULT)
@pytest.mark.rows(4)
def test_difficult_data_condition(name, dtype):
    x, y = DIFFICULT[name]
    data = dkp.Dataset.from_arrays(x, y, dtype=dtype)
    predicted(dkp.condition(gp(), data), x[:2])


@pytest.mark.parametrize(
    "name", sorted(DIFFICULT.keys() - {"one feature as a vector", "targets far from zero"})
)
@pytest.mark.rows(3)
def test_difficult_data_fit_vi(name):
    x, y = DIFFICULT[name]
    posterior = fit(data=dkp.Dataset.from_arrays(x, y))
    p = predicted(posterior, x[:2])
    assert posterior.skipped == 0 and np.all(np.isfinite(posterior.elbo_trace))
    spread = max(np.ptp(y), np.abs(y).max() * 1e-3)
    assert np.all(np.abs(p.mean - y[:2]) < 10 * max(spread, 1.0 if np.ptp(y) == 0 else 0.0))


KINDS_OF_ARRAYS = {
    "integers": (np.arange(14).reshape(7, 2), np.arange(7)),
    "booleans": (X > 0, Y > 0),
    "lists": (X.tolist(), Y.tolist()),
    "JAX arrays": (jax.numpy.asarray(X), jax.numpy.asarray(Y)),
    "float16": (X.astype(np.float16), Y.astype(np.float16)),
    "frame and series": (pd.DataFrame(X, columns=["a", "b"]), pd.Series(Y, name="target")),
    "frame and frame": (pd.DataFrame(X, columns=["a", "b"]), pd.DataFrame({"u": Y, "v": 2 * Y})),
    "frame of objects": (pd.DataFrame(X, columns=["a", "b"]).astype(object), Y),
}


@pytest.mark.parametrize("name", KINDS_OF_ARRAYS)
def test_kinds_of_arrays(name):
    x, y = KINDS_OF_ARRAYS[name]
    p = predicted(dkp.condition(gp(), dkp.Dataset.from_arrays(x, y)), x[:2])
    assert p.mean.shape == (2,) if np.ndim(y) == 1 else (2, 2)
    assert np.all(np.isfinite(p.log_density(y[:2])))


@pytest.mark.slow
def test_more_inducing_points_than_distinct_rows():
    """k-means cannot find more centres than there are different points."""
    x = np.repeat(X[:2], 6, axis=0)
    posterior = fit(data=dkp.Dataset.from_arrays(x, np.tile(Y[:2], 6)), n_inducing=5)
    predicted(posterior, X[:2])


def test_batch_size_larger_than_the_data():
    assert fit(batch_size=100).skipped == 0


# --- input that is refused ------------------------------------------------------------------------


class NoLayer:
    """Stands for anything that is not a layer."""


def layers(*items):
    return dkp.DeepKernelProcess(layers=list(items), likelihood=likelihoods.Gaussian())


def with_bad(value, row=1):
    bad = X.copy()
    bad[row, 0] = value
    return bad


def data():
    return dkp.Dataset.from_arrays(X, Y)


def posterior():
    return dkp.condition(gp(), data())


REFUSED = {
    # data
    "NaN in x": (lambda: dkp.Dataset.from_arrays(with_bad(np.nan), Y), "x to be finite"),
    "infinity in x": (lambda: dkp.Dataset.from_arrays(with_bad(np.inf), Y), "x to be finite"),
    "NaN in y": (lambda: dkp.Dataset.from_arrays(X, np.where(Y > 0, Y, np.nan)), "y to be finite"),
    "missing in a frame": (
        lambda: dkp.Dataset.from_arrays(pd.DataFrame({"a": [1.0, None]}), [1, 2]),
        "x to be finite",
    ),
    "text": (
        lambda: dkp.Dataset.from_arrays([["a"], ["b"]], [1, 2]),
        "x to be an array of real numbers",
    ),
    "complex": (lambda: dkp.Dataset.from_arrays(X * 1j, Y), "x to be an array of real numbers"),
    "ragged": (
        lambda: dkp.Dataset.from_arrays([[1, 2], [3]], [1, 2]),
        "x to be an array of real numbers",
    ),
    "three axes": (lambda: dkp.Dataset.from_arrays(X[None], Y), "x to have 1 or 2 or 4 axes"),
    "rows that differ": (lambda: dkp.Dataset.from_arrays(X, Y[:3]), "equally many rows"),
    "no rows": (lambda: dkp.Dataset.from_arrays(X[:0], Y[:0]), "x to hold at least one number"),
    "no features": (lambda: dkp.Dataset.from_arrays(X[:, :0], Y), "x to hold at least one number"),
    "nothing": (lambda: dkp.Dataset.from_arrays(None, Y), "x to"),
    # descriptions
    "unknown order": (lambda: kernels.ArcCosine(7), "order"),
    "text as order": (lambda: kernels.ArcCosine("relu"), "order"),
    "no layers": (layers, "at least one layer"),
    "a class as a layer": (lambda: layers(kernels.Linear), r"layers\[0\]"),
    "not a layer": (lambda: layers(kernels.Linear(), NoLayer()), r"layers\[1\]"),
    "an input kernel in the middle": (
        lambda: layers(kernels.Linear(), kernels.Linear()),
        "only as the first layer",
    ),
    "a likelihood class": (
        lambda: dkp.DeepKernelProcess(layers=[kernels.Linear()], likelihood=likelihoods.Gaussian),
        "likelihood to be",
    ),
    "no likelihood": (
        lambda: dkp.DeepKernelProcess(layers=[kernels.Linear()], likelihood=None),
        "likelihood to be",
    ),
    "delta zero": (lambda: dkp.InverseWishart(delta=0.0), r"delta"),
    "delta negative": (lambda: dkp.InverseWishart(delta=-3.0), r"delta"),
    "delta infinite": (lambda: dkp.InverseWishart(delta=float("inf")), r"delta"),
    "delta learned from zero": (lambda: dkp.InverseWishart(delta=dkp.learn(0.0)), r"delta"),
    "delta as text": (lambda: dkp.InverseWishart(delta="large"), r"delta"),
    "learn from NaN": (lambda: dkp.learn(float("nan")), "finite initial value"),
    "noise zero": (lambda: likelihoods.Gaussian(noise=0.0), "noise"),
    "noise negative": (lambda: likelihoods.Gaussian(noise=-1.0), "noise"),
    "noise missing": (lambda: likelihoods.Gaussian(noise=None), "noise"),
    "lengthscale as a JAX array below zero": (
        lambda: kernels.SquaredExponential(lengthscale=jax.numpy.asarray(-1.0)),
        "lengthscale",
    ),
    # engines
    "no model": (lambda: fit(model=[kernels.Linear()]), "model to be"),
    "model class": (lambda: fit(model=dkp.DeepKernelProcess), "model to be"),
    "arrays as data": (lambda: fit(data=(X, Y)), "data to be a dkp.Dataset"),
    "no inducing points": (lambda: fit(n_inducing=0), "n_inducing"),
    "half an inducing point": (lambda: fit(n_inducing=2.5), "n_inducing"),
    "no steps": (lambda: fit(steps=0), "steps"),
    "negative steps": (lambda: fit(steps=-5), "steps"),
    "empty batches": (lambda: fit(batch_size=0), "batch_size"),
    "no samples": (lambda: fit(samples=0), "samples"),
    "no patience": (lambda: fit(patience=0), "patience"),
    "half a start": (lambda: fit(start_steps=1.5), "start_steps"),
    "no chunk of steps": (lambda: fit(chunk=0), "chunk"),
    "collapsed minibatches": (lambda: fit(collapse=True, batch_size=3), "collapse"),
    "a seed for a key": (lambda: fit(key=0), "key"),
    "weights of the wrong length": (
        lambda: fit(
            model=layers(kernels.Linear(ard=True, weights=[1.0, 2.0, 3.0]), dkp.InverseWishart())
        ),
        "layers.0.weights",
    ),
    "a prior below zero": (
        lambda: fit(
            model=layers(kernels.Linear(), dkp.InverseWishart(delta=dist.Normal(0.0, 1.0)))
        ),
        "layers.1.delta",
    ),
    "condition with a bottleneck": (lambda: dkp.condition(deep(), data()), "without bottlenecks"),
    "condition without a model": (lambda: dkp.condition(None, data()), "model to be"),
    "condition without data": (lambda: dkp.condition(gp(), X), "data to be"),
    "condition without restarts": (
        lambda: dkp.condition(gp(), data(), key=KEY, restarts=0),
        "restarts",
    ),
    "condition without iterations": (
        lambda: dkp.condition(gp(), data(), max_iterations=0),
        "max_iterations",
    ),
    # prediction
    "other features": (lambda: dkp.predict(posterior(), X[:, :1], key=KEY), "x to have 2 columns"),
    "a row as a vector": (lambda: dkp.predict(posterior(), X[0], key=KEY), "x to have 2 axes"),
    "NaN at prediction": (
        lambda: dkp.predict(posterior(), with_bad(np.nan), key=KEY),
        "x to be finite",
    ),
    "no rows to predict": (
        lambda: dkp.predict(posterior(), X[:0], key=KEY),
        "x to hold at least one number",
    ),
    "no draws": (lambda: dkp.predict(posterior(), X, key=KEY, n_samples=0), "n_samples"),
    "no chunk": (lambda: dkp.predict(posterior(), X, key=KEY, chunk=0), "chunk"),
    "a model for a posterior": (lambda: dkp.predict(gp(), X, key=KEY), "posterior"),
    "quantile outside": (
        lambda: dkp.predict(posterior(), X, key=KEY).quantile(1.5),
        "strictly between 0 and 1",
    ),
    "log density of other rows": (
        lambda: dkp.predict(posterior(), X, key=KEY).log_density(Y[:2]),
        "y of shape",
    ),
    "log density of NaN": (
        lambda: dkp.predict(posterior(), X, key=KEY).log_density(Y * np.nan),
        "y to be finite",
    ),
    "prior without inputs": (
        lambda: dkp.prior_predictive(gp(), X[:0], key=KEY),
        "x to hold at least one number",
    ),
    "prior without outputs": (
        lambda: dkp.prior_predictive(gp(), X, key=KEY, n_outputs=0),
        "n_outputs",
    ),
    "prior without a model": (
        lambda: dkp.prior_predictive(kernels.Linear(), X, key=KEY),
        "model to be",
    ),
    # the NumPyro model
    "numpyro: a vector of inputs": (lambda: deep().numpyro(X[:, 0], Y), "x of shape"),
    "numpyro: rows that differ": (lambda: deep().numpyro(X, Y[:3]), "y of shape"),
    "numpyro: inducing points": (
        lambda: deep().numpyro(X, Y, inducing=X[:2, :1]),
        "inducing of shape",
    ),
}


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=rf"(?s)Expected .*{words}.*Got"):
        call()


def test_the_message_names_row_and_column():
    frame = pd.DataFrame(with_bad(np.nan, row=4), columns=["age", "height"])
    with pytest.raises(ValueError, match="row 4, column age"):
        dkp.Dataset.from_arrays(frame, Y)
