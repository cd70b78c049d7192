import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import sklearn.preprocessing

from dkp.data.dataset import Dataset
from dkp.data.standardization import Standardization

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)) * np.array([1.0, 1e6, 1e-6]) + np.array([0.0, -3e6, 5.0])
Y = RNG.normal(size=12)
DTYPES = ["float32", "float64"]


def test_standardisation_agrees_with_scikit_learn():
    found = Standardization.fit(X)
    other = sklearn.preprocessing.StandardScaler().fit(X)
    np.testing.assert_allclose(found.mean, other.mean_)
    np.testing.assert_allclose(found.scale, other.scale_ * np.sqrt(12 / 11))


@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1.0, 1e6, 1e200])
def test_standardised_columns_have_mean_0_and_unbiased_deviation_1(scale):
    x = scale * (X[:, :1] + 2.0)
    z = Standardization.fit(x).apply(x)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-13)
    np.testing.assert_allclose(z.std(axis=0, ddof=1), 1.0, rtol=1e-13)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e300])
@pytest.mark.parametrize("n", [1, 10])
def test_a_constant_column_has_scale_1(value, n):
    found = Standardization.fit(np.full((n, 1), value))
    np.testing.assert_array_equal(found.scale, [1.0])
    np.testing.assert_allclose(found.mean, [value], rtol=1e-14)


def test_a_range_of_rounding_error_is_constant():
    assert Standardization.fit(np.array([[0.3], [0.1 + 0.2]])).scale == 1.0


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_undo_inverts_apply(shape):
    x = np.random.default_rng(1).normal(size=shape)
    s = Standardization.fit(X)
    np.testing.assert_allclose(s.undo(s.apply(x)), x, atol=1e-8)  # the second column's mean is 3e6
    assert s.undo(jnp.zeros(shape, "float32")).dtype == np.float64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_targets_of_any_scale_survive_the_round_trip(dtype, scale):
    y = scale * (Y + 100.0)
    data = Dataset.from_arrays(X, y, dtype=dtype)
    assert data.x.dtype == data.y.dtype == dtype
    eps = np.finfo(dtype).eps
    # relative to the spread of y, not to its size: the offset of 100 costs nothing
    np.testing.assert_allclose(
        data.undo_targets(data.y), y, rtol=0, atol=4 * eps * y.std() + 1e-13 * scale
    )


def test_sizes_and_default_names():
    data = Dataset.from_arrays(X, np.stack([Y, Y**2], axis=1))
    assert (data.n, data.d, data.n_outputs) == (12, 3, 2)
    assert data.feature_names == ("x0", "x1", "x2")
    assert data.target_names == ("y0", "y1")
    assert data.x.dtype == jnp.result_type(float)


@pytest.mark.parametrize(
    ("standardize", "targets", "changed"),
    [(True, None, "xy"), (True, False, "x"), (False, True, "y"), (False, None, "")],
)
def test_what_is_standardised(standardize, targets, changed):
    data = Dataset.from_arrays(X, Y, standardize, standardize_targets=targets)
    assert np.array_equal(data.x, X) == ("x" not in changed)
    assert np.array_equal(data.y[:, 0], Y) == ("y" not in changed)
    np.testing.assert_allclose(data.undo_targets(data.y), Y)
    np.testing.assert_allclose(data.x_standardization.undo(data.x), X)


@pytest.mark.parametrize(
    ("y", "shape"),
    [
        (Y, (5, 12)),
        (list(Y), (5, 12)),
        (Y[:, None], (5, 12, 1)),
        (pd.Series(Y), (5, 12)),
        (pd.DataFrame({"t": Y}), (5, 12, 1)),
    ],
)
def test_predictions_come_back_in_the_shape_of_the_targets(y, shape):
    data = Dataset.from_arrays(X, y)
    assert data.undo_targets(np.zeros((5, 12, 1))).shape == shape


def test_training_rows_alone_decide():
    """New points are mapped by the training data's statistics, one by one."""
    data = Dataset.from_arrays(X, Y)
    np.testing.assert_allclose(data.standardize_inputs(X), data.x)
    np.testing.assert_allclose(data.standardize_inputs(X[:1]), data.x[:1])
    np.testing.assert_allclose(data.standardize_targets(Y[:2]), data.y[:2])


def test_names_of_frames():
    frame, series = pd.DataFrame(X, columns=["a", "b", "c"]), pd.Series(Y, name="t")
    data = Dataset.from_arrays(frame, series)
    assert data.feature_names == ("a", "b", "c")
    assert data.target_names == ("t",)
    assert data.y_was_vector
    np.testing.assert_allclose(data.standardize_inputs(frame), data.x)
    np.testing.assert_allclose(data.standardize_inputs(X), data.x)
    with pytest.raises(
        ValueError,
        match=r"columns of x to be \['a', 'b', 'c'\], in this order. Got \['b', 'a', 'c'\]",
    ):
        data.standardize_inputs(frame[["b", "a", "c"]])
    with pytest.raises(ValueError, match=r"columns of y to be \['t'\]"):
        data.standardize_targets(series.rename("u"))
    without_names = Dataset.from_arrays(X, Y)
    np.testing.assert_allclose(without_names.standardize_inputs(frame), data.x)


def test_given_names_win():
    data = Dataset.from_arrays(
        pd.DataFrame(X), Y, feature_names=["a", "b", "c"], target_names=["t"]
    )
    assert data.feature_names == ("a", "b", "c")
    assert data.target_names == ("t",)
    for names in (["a"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="Expected feature_names to be 3 different names"):
            Dataset.from_arrays(X, Y, feature_names=names)


WORKS = {
    "one feature": (Y, Y),
    "integers": (np.arange(12), np.arange(12)),
    "booleans": (Y > 0, Y < 0),
    "constant target": (X, np.ones(12)),
    "constant column": (np.ones((12, 1)), Y),
    "duplicate rows": (np.concatenate([X, X]), np.concatenate([Y, Y])),
    "one point": (X[:1], Y[:1]),
    "lists": (X.tolist(), Y.tolist()),
    "jax": (jnp.asarray(X, "float32"), jnp.asarray(Y, "float32")),
}


@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unusual_data_work(kind, dtype):
    x, y = WORKS[kind]
    data = Dataset.from_arrays(x, y, dtype=dtype)
    assert data.x.ndim == data.y.ndim == 2
    assert bool(jnp.isfinite(data.x).all() & jnp.isfinite(data.y).all())
    np.testing.assert_allclose(
        data.undo_targets(data.y), np.asarray(y, float), rtol=1e-5, atol=1e-6
    )


REFUSED = {
    "NaN in x": ((np.full((12, 1), np.nan), Y), "Expected x to be finite. Got 12 missing"),
    "NaN in y": ((X, np.full(12, np.nan)), "Expected y to be finite. Got 12 missing"),
    "rows": ((X, Y[:5]), "Expected x and y to have equally many rows. Got 12 and 5"),
    "empty": ((np.zeros((0, 2)), np.zeros(0)), "Expected x to hold at least one number"),
    "text": ((X, ["a"] * 12), "Expected y to be an array of real numbers"),
    "three axes": ((np.zeros((2, 2, 2)), np.zeros(2)), "Expected x to have 1 or 2 or 4 axes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_data_are_refused(kind):
    arguments, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays(*arguments)


def test_new_inputs_are_checked():
    data = Dataset.from_arrays(X, Y)
    with pytest.raises(ValueError, match="Expected x to have 3 columns, as in training. Got 2"):
        data.standardize_inputs(X[:, :2])
    with pytest.raises(ValueError, match="Expected x to have 2 axes"):
        data.standardize_inputs(X[0])
    with pytest.raises(ValueError, match="Expected x to be finite"):
        data.standardize_inputs(X * np.inf)
    with pytest.raises(ValueError, match="Expected y to have 1 columns"):
        data.standardize_targets(X)
    assert Dataset.from_arrays(Y, Y).standardize_inputs(Y).shape == (12, 1)


def test_dtypes_that_cannot_hold_the_data_are_refused():
    with pytest.raises(ValueError, match="Expected dtype to be float32 or float64. Got int32"):
        Dataset.from_arrays(X, Y, dtype="int32")
    with pytest.raises(
        ValueError, match=r"Expected x to fit into float32. Got 1.0e\+39: standardize"
    ):
        Dataset.from_arrays(np.full(3, 1e39), np.zeros(3), False, dtype="float32")


def test_without_x64_the_default_is_float32_and_float64_is_refused():
    with jax.enable_x64(False):
        data = Dataset.from_arrays(X, Y)
        with pytest.raises(ValueError, match="Expected jax_enable_x64 to be set for dtype float64"):
            Dataset.from_arrays(X, Y, dtype="float64")
    assert data.x.dtype == np.float32
    assert data.x_standardization.mean.dtype == np.float64


def test_is_a_pytree():
    data = Dataset.from_arrays(X, Y)
    leaves, structure = jax.tree.flatten(data)
    again = jax.tree.unflatten(structure, leaves)
    assert again.feature_names == data.feature_names
    np.testing.assert_array_equal(
        jax.jit(lambda d: d.x.sum(axis=0) + d.y_standardization.mean)(data),
        data.x.sum(axis=0) + Y.mean(),
    )
