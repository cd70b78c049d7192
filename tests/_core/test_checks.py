import decimal
import fractions

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from dkp._core import checks

PLAIN = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]

READABLE = {
    "list": PLAIN,
    "tuple": tuple(map(tuple, PLAIN)),
    "integers": np.array(PLAIN, int),
    "unsigned": np.array(PLAIN, np.uint8),
    "booleans": np.array(PLAIN, bool),
    "float32": np.array(PLAIN, np.float32),
    "jax": jnp.array(PLAIN),
    "bfloat16": jnp.array(PLAIN, jnp.bfloat16),
    "objects": np.array(PLAIN, object),
    "fractions": [[fractions.Fraction(int(v)) for v in row] for row in PLAIN],
    "frame": pd.DataFrame(PLAIN, columns=["a", "b"]),
    "mixed frame": pd.DataFrame({"a": [True, False, True], "b": [0.0, 1.0, 1.0]}),
    "nullable frame": pd.DataFrame(PLAIN).astype("Int64"),
    "masked, nothing masked": np.ma.array(PLAIN),
}


@pytest.mark.parametrize("kind", READABLE)
def test_numbers_of_every_kind_become_float64(kind):
    found = checks.matrix("x", READABLE[kind])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, PLAIN)


def test_one_axis_is_one_column():
    assert checks.matrix("x", pd.Series([1, 2, 3])).shape == (3, 1)


def test_the_argument_is_not_changed():
    given = np.array(PLAIN)
    checks.matrix("x", given)[:] = 7.0
    np.testing.assert_array_equal(given, PLAIN)


UNREADABLE = {
    "text": (["1.5", "2"], "text: encode it as numbers first"),
    "text column": (
        pd.DataFrame({"age": [1, 2], "city": ["Rome", "Oslo"]}),
        r"str such as 'Rome' in column 'city': encode",
    ),
    "text columns": (pd.DataFrame({"u": ["a"], "n": [1], "v": ["b"]}), "in columns 'u', 'v'"),
    "category": (pd.DataFrame({"n": [1.0, 2.0], "c": pd.Categorical(["a", "b"])}), "in column 'c'"),
    "many text columns": (np.full((2, 8), "a", object), "in columns 0, 1, 2, 3, 4 and 3 more"),
    "decimals": ([decimal.Decimal(1)], "Decimal"),
    "complex": ([1j, 2.0], "complex numbers"),
    "dates": (np.array(["2020-01-01"], "datetime64[D]"), "dates"),
    "durations": (np.array([3], "timedelta64[D]"), "durations"),
    "ragged": ([[1.0], [1.0, 2.0]], "unequal length"),
    "sparse": (scipy.sparse.eye_array(2).tocsr(), "toarray"),
    "dictionary": ({"a": 1}, "dict"),
    "none": (None, "NoneType"),
    "empty": ([], "at least one number"),
    "no rows": (np.zeros((0, 3)), "at least one number"),
    "no columns": (np.zeros((3, 0)), "at least one number"),
    "scalar": (1.0, "1 or 2 axes"),
    "three axes": (np.zeros((2, 2, 2)), "1 or 2 axes"),
    "NaN": (
        pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, np.nan]}),
        r"1 missing \(NaN\) and 0 infinite of 4.* row 1, column b",
    ),
    "infinity": (
        np.array([[0.0, -np.inf], [np.inf, 0.0]]),
        r"0 missing \(NaN\) and 2 infinite.* row 0, column 1",
    ),
    "missing cell": (
        pd.DataFrame({"a": pd.array([1, None], "Int64")}),
        r"1 missing .* row 1, column a",
    ),
    "missing in objects": ([1.0, None, 2.0], "1 missing"),
    "masked": (np.ma.array([1, 2], mask=[True, False]), "1 missing"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_not_a_finite_matrix_is_refused_by_name_with_a_remedy(kind):
    value, message = UNREADABLE[kind]
    with pytest.raises(ValueError, match=message) as raised:
        checks.matrix("inputs", value)
    assert str(raised.value).startswith("Expected inputs to ")
    assert ". Got " in str(raised.value)


def test_nan_may_pass_but_infinities_may_not():
    np.testing.assert_array_equal(
        checks.matrix("y", [1.0, None, np.nan], allow_nan=True), [[1.0], [np.nan], [np.nan]]
    )
    with pytest.raises(ValueError, match="1 infinite"):
        checks.matrix("y", [np.inf, np.nan], allow_nan=True)


def test_column_names():
    assert checks.column_names(pd.DataFrame({"a": [1], 2: [3]})) == ("a", "2")
    assert checks.column_names(pd.Series([1], name="z")) == ("z",)
    assert checks.column_names(pd.Series([1])) is None
    assert checks.column_names(np.zeros((2, 2))) is None


@pytest.mark.parametrize("value", [1, np.int32(7), np.array(3)])
def test_positive_int_accepts(value):
    found = checks.positive_int("steps", value)
    assert type(found) is int
    assert found == value


@pytest.mark.parametrize("value", [0, -1, True, np.True_, 2.0, "3", None, np.array([3])])
def test_positive_int_refuses(value):
    with pytest.raises(ValueError, match="Expected steps to be an integer of at least 1. Got"):
        checks.positive_int("steps", value)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(2.0), np.int64(3)])
def test_positive_number_accepts(value):
    found = checks.positive_number("rate", value)
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, True, "1", None, 1j])
def test_positive_number_refuses(value):
    with pytest.raises(ValueError, match="Expected rate to be a finite number above 0. Got"):
        checks.positive_number("rate", value)


def test_one_of_lists_the_options():
    assert checks.one_of("order", 1, (0, 1)) == 1
    with pytest.raises(ValueError, match="Expected order to be one of 0, 1. Got 2"):
        checks.one_of("order", 2, (0, 1))


def test_same_length_and_shape():
    a, b = np.zeros((2, 1)), np.zeros((3, 1))
    checks.same_length("x", a, "y", np.zeros(2))
    checks.same_shape("x", a, "y", a)
    with pytest.raises(ValueError, match="equally many rows. Got 2 and 3"):
        checks.same_length("x", a, "y", b)
    with pytest.raises(ValueError, match=r"one shape. Got \(2, 1\) and \(3, 1\)"):
        checks.same_shape("x", a, "y", b)
