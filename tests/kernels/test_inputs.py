"""The linear kernel against its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from dkp._core.description import Learn, learn
from dkp.gram.gram import Inputs
from dkp.kernels import Linear

RANDOM = np.random.default_rng(0)
X, T = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(4, 3))


def test_without_ard_it_is_the_gram_matrix_of_the_features():
    gram = Linear()(Inputs(i=jnp.asarray(X), t=jnp.asarray(T)))
    np.testing.assert_allclose(gram.ii, X @ X.T / 3, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(gram.ti, T @ X.T / 3, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(gram.tt, np.sum(T**2, 1) / 3, rtol=1e-13)


def test_weights_scale_the_features_and_the_bias_is_a_variance():
    weights = np.array([0.5, 1.0, 3.0])
    gram = Linear(ard=True, weights=weights, bias=0.7)(Inputs(i=jnp.asarray(X), t=jnp.asarray(T)))
    expected = np.einsum("nd,d,md->nm", T, weights**2, X) / 3 + 0.7
    np.testing.assert_allclose(gram.ti, expected, rtol=1e-13)
    np.testing.assert_allclose(gram.tt, (T**2 @ weights**2) / 3 + 0.7, rtol=1e-13)


def test_one_feature():
    np.testing.assert_allclose(
        Linear()(Inputs(i=jnp.asarray(X[:, :1]))).ii, X[:, :1] @ X[:, :1].T, rtol=1e-14
    )


def test_ard_weights_are_learned_unless_given():
    default = Linear(ard=True)
    assert isinstance(default.weights, Learn)
    assert default.hyperparameter_shapes(3, 1) == {"weights": (3,)}
    assert Linear(ard=True, weights=1.0).weights == 1.0
    assert Linear().weights == 1.0
    assert Linear().hyperparameter_shapes(3, 1) == {}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"weights": 0.0}, "weights"),
        ({"weights": learn(-1.0)}, "weights"),
        ({"weights": np.array([1.0, -1.0])}, "weights"),
        ({"bias": -0.1}, "bias"),
        ({"bias": float("nan")}, "bias"),
    ],
)
def test_values_outside_the_domain(options, name):
    with pytest.raises(ValueError, match=rf"Expected Linear\({name}=…\)"):
        Linear(**options)


def test_wrong_number_of_weights():
    with pytest.raises(ValueError, match=r"each of the 3 features. Got shape \(2,\)"):
        Linear(ard=True, weights=np.ones(2))(Inputs(i=jnp.asarray(X)))
