"""The codec of files: every sort of thing survives, and what a file cannot name is said."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import dkp
from dkp import kernels
from dkp._core.identity import fingerprint
from dkp._core.record import record, value
from dkp._core.records import Leaves, Refused, decode, encode, register, unstorable

KEY = jax.random.key(3)


@register
@dataclasses.dataclass(frozen=True)
class Pair:
    first: object
    second: object = 2


@register
def squared(u):
    return u**2


@register
class Shifted(dist.Normal):
    def __init__(self, shift, *, validate_args=None):
        self.shift = shift
        super().__init__(shift, 1.0, validate_args=validate_args)


class Unknown:
    pass


class Own(kernels.Kernel):
    factor: Any = dkp.hyperparameter(default=2.0)

    def pairs(self, block):
        return block.everywhere(lambda k, points: self.factor * k)


def again(tree):
    arrays = {}
    header = json.loads(json.dumps(encode(tree, arrays), allow_nan=False))
    return decode(header, arrays)


TREES = {
    "constants": [None, True, 1, -2.5, "text", float("inf"), float("-inf")],
    "containers": {"a": (1, [2.0, (3,)], {}), "b": []},
    "arrays": [np.arange(3), jnp.ones((2, 1)), np.float32(1.5), jnp.asarray(True)],
    "a record": Pair(1, Pair((), None)),
    "a function": kernels.Activation(squared),
    "learn": [dkp.learn(), dkp.learn(2.0), dkp.learn(np.ones(2))],
    "priors": [
        dist.LogNormal(0.0, 1.0),
        dist.TruncatedNormal(1.0, 2.0, low=0.5),
        dist.Gamma(jnp.ones(2), 2.0).to_event(1),
        dist.HalfNormal(1.0).expand([3]),
        dist.TransformedDistribution(
            dist.LogNormal(0.0, 1.0), [dist.transforms.AffineTransform(0.5, 2.0)]
        ),
        dkp.distributions.PositiveStable(0.6),
        Shifted(0.25),
    ],
    "descriptions": kernels.Sum(kernels.Linear(ard=True), kernels.Scale(kernels.Linear())),
    "a kernel of the user": Own(),
    "a guide": dkp.guides.WishartGuide(rows="dense"),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_survive(name):
    assert fingerprint(again(TREES[name])) == fingerprint(TREES[name])


def test_random_keys_and_the_place_of_arrays_survive():
    back = again({"keys": jax.random.split(KEY), "here": np.ones(2), "there": jnp.ones(2)})
    data = jax.random.key_data
    np.testing.assert_array_equal(data(back["keys"]), data(jax.random.split(KEY)))
    assert isinstance(back["here"], np.ndarray) and isinstance(back["there"], jax.Array)
    assert np.isnan(again(float("nan")))


def test_leaves_take_the_structure_of_a_template():
    tree = {"key": jax.random.split(KEY), "a": (jnp.ones(2), np.zeros(3, np.int32))}
    back = again(Leaves(tree)).like(tree)
    jax.tree.map(np.testing.assert_array_equal, back["a"], tree["a"])
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for other in ({"a": jnp.ones(3)}, {**tree, "b": 1.0}, {**tree, "key": KEY}):
        with pytest.raises(ValueError, match="Expected a checkpoint of this program"):
            again(Leaves(tree)).like(other)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (Unknown(), "Unknown"),
        (kernels.Activation(lambda u: u), "lambda"),
        (kernels.Activation(jnp.tanh), "tanh"),
        ([{"a": Unknown}], "Unknown"),
        ({1: 2}, "names to be text"),
    ],
)
def test_what_a_file_cannot_name_is_said(tree, name):
    with pytest.raises(Refused, match=rf"Expected .*{name}"):
        encode(tree, {})
    assert name in str(unstorable(tree))


def test_an_engine_says_before_it_runs_that_its_posterior_cannot_be_saved():
    model = dkp.DeepKernelProcess(
        layers=[kernels.Activation(lambda u: u)], likelihood=dkp.likelihoods.Gaussian(noise=0.1)
    )
    data = dkp.Dataset.from_arrays(np.arange(3.0), np.arange(3.0))
    with pytest.warns(UserWarning, match=r"dkp.save will not be able .* dkp.io.register"):
        dkp.condition(model, data)


def test_names_that_are_not_known_here_are_refused():
    arrays = {}
    header = encode(Pair(1), arrays)
    header["record"] = "somewhere:Else"
    with pytest.raises(Refused, match=r"somewhere:Else, which is not known here: import"):
        decode(header, arrays)


def test_fields_of_older_files_get_their_defaults_and_others_are_refused():
    header = {"record": f"{__name__}:Pair", "fields": {"first": 1}}
    assert decode(header, {}) == Pair(1, 2)
    for fields in ({"second": 1}, {"first": 1, "third": 2}):
        with pytest.raises(ValueError, match="the fields"):
            decode({**header, "fields": fields}, {})


def test_only_classes_and_functions_are_registered():
    with pytest.raises(ValueError, match="Expected a class or a function"):
        register(3)


def test_records_are_frozen_and_values_are_trees():
    @value
    class Both:
        a: object
        b: object = 1

    @record
    class Result:
        a: object

    one = Both(a=jnp.ones(2))
    assert jax.tree.leaves(one)[1] == 1 and jax.tree.leaves(Result(a=1)) != [1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.a = 2
