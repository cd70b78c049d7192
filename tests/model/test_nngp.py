"""NNGP and tangent kernels of whole networks, against recursions written out in NumPy and against
finite networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dkp
from dkp import kernels
from dkp._core import matrix_file
from dkp._core.machine import free_memory
from dkp.kernels import (
    Affine,
    AvgPool,
    Chain,
    Conv,
    Erf,
    Flatten,
    GlobalAvgPool,
    LocallyConnected,
    ReLU,
    Repeat,
    Residual,
    Sum,
)
from dkp.model import nngp, tiles
from tests.support import relaxed

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(7, 5)), RNG.normal(size=(4, 5))
IMAGES = RNG.normal(size=(3, 4, 5, 2))
DENSE = [Affine(2.0, 0.1), ReLU(), Affine(1.5, 0.2), ReLU(), Affine(1.0, 0.05)]


# --- recursions in NumPy: all points, or all locations of all images, as one square matrix --------


def relu(k, t):
    scale = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    cosine = np.clip(k / scale, -1, 1)
    np.fill_diagonal(cosine, 1)
    angle = np.arccos(cosine)
    slope = (np.pi - angle) / (2 * np.pi)
    return scale * (np.sin(angle) / (2 * np.pi) + slope * cosine), t * slope


def affine(k, t, weight, bias):
    return weight * k + bias, weight * k + bias + weight * t


def dense_network(x):
    k, t = affine(x @ x.T / x.shape[1], 0, 2.0, 0.1)
    for weight, bias in ((1.5, 0.2), (1.0, 0.05)):
        k, t = affine(*relu(k, t), weight, bias)
    return k, t


def taps(shape, size, stride, padding):
    """For every tap of a filter, the matrix that picks the pixel under it: (taps, locations out,
    locations in)."""
    out, before = [], []
    for length, k, s in zip(shape, size, stride, strict=True):
        out.append((length - k) // s + 1 if padding == "VALID" else -(-length // s))
        before.append(0 if padding == "VALID" else max((out[-1] - 1) * s + k - length, 0) // 2)
    matrices = np.zeros((*size, *out, *shape))
    for d in np.ndindex(*size):
        for r in np.ndindex(*out):
            pixel = tuple(r[a] * stride[a] + d[a] - before[a] for a in range(2))
            if padding == "CIRCULAR":
                pixel = tuple(p % length for p, length in zip(pixel, shape, strict=True))
            if all(0 <= p < length for p, length in zip(pixel, shape, strict=True)):
                matrices[(*d, *r, *pixel)] = 1
    return matrices.reshape(size[0] * size[1], out[0] * out[1], shape[0] * shape[1]), tuple(out)


def conv(k, t, n, matrices, weight, bias):
    every = [np.kron(np.eye(n), m) for m in matrices]
    k, t = (sum(m @ a @ m.T for m in every) / len(every) for a in (k, t))
    return affine(k, t, weight, bias)


def pool(k, t, n, matrix):
    every = np.kron(np.eye(n), matrix)
    return every @ k @ every.T, every @ t @ every.T


def image_network(layers, images):
    """K and T of conv, relu and pooling layers, by matrices over all locations of all images."""
    n, shape = images.shape[0], images.shape[1:3]
    pixels = images.reshape(-1, images.shape[-1])
    k = pixels @ pixels.T / images.shape[-1]
    t = np.zeros_like(k)
    for layer in layers:
        if isinstance(layer, Conv):
            matrices, shape = taps(shape, layer.filter_shape, layer.strides, layer.padding)
            k, t = conv(k, t, n, matrices, layer.weight_var, layer.bias_var)
            if isinstance(layer, LocallyConnected):
                same = np.kron(np.ones((n, n)), np.eye(len(matrices[0])))
                k, t = k * same, t * same
        elif isinstance(layer, ReLU):
            k, t = relu(k, t)
        elif isinstance(layer, AvgPool):
            matrices, shape = taps(shape, layer.window, layer.strides, layer.padding)
            k, t = pool(k, t, n, matrices.mean(0))
        elif isinstance(layer, Flatten):
            locations = k.shape[0] // n
            k, t = (
                np.einsum("irjr->ij", a.reshape(n, locations, n, locations)) / locations
                for a in (k, t)
            )
        elif isinstance(layer, GlobalAvgPool):
            k, t = pool(k, t, n, np.full((1, k.shape[0] // n), n / k.shape[0]))
        else:
            k, t = affine(k, t, layer.weight_var, layer.bias_var)
    return k, t


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 3, 100])
def test_dense_network(tile):
    both = np.concatenate([X, Y])
    k, t = dense_network(both)
    nngp, ntk = dkp.nngp_and_ntk_kernels(DENSE, both, tile=tile)
    np.testing.assert_allclose(nngp, k, rtol=1e-12)
    np.testing.assert_allclose(ntk, t, rtol=1e-12)
    nngp, ntk = dkp.nngp_kernel(DENSE, X, Y, tile=tile), dkp.ntk_kernel(DENSE, X, Y, tile=tile)
    np.testing.assert_allclose(nngp, k[:7, 7:], rtol=1e-12)
    np.testing.assert_allclose(ntk, t[:7, 7:], rtol=1e-12)


@pytest.mark.parametrize(
    "layers",
    [
        [
            Conv(3, weight_var=2.0, bias_var=0.1),
            ReLU(),
            Conv((3, 2), strides=2),
            ReLU(),
            Flatten(),
            Affine(),
        ],
        [
            Conv((2, 3), padding="VALID"),
            ReLU(),
            Conv(3, strides=(1, 2), padding="CIRCULAR"),
            ReLU(),
            Flatten(),
        ],
        [
            Conv(3, weight_var=2.0),
            ReLU(),
            AvgPool(2),
            Conv(2, padding="CIRCULAR"),
            ReLU(),
            GlobalAvgPool(),
            Affine(),
        ],
        [
            Conv(2),
            ReLU(),
            AvgPool((2, 3), strides=1, padding="SAME"),
            Conv(2),
            ReLU(),
            Flatten(),
            Affine(1.2, 0.3),
        ],
        [
            LocallyConnected(3, weight_var=1.7),
            ReLU(),
            LocallyConnected(2),
            ReLU(),
            GlobalAvgPool(),
            Affine(),
        ],
        [LocallyConnected(3, weight_var=1.7), ReLU(), Flatten(), Affine()],
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers),
)
def test_networks_of_images(layers):
    k, t = image_network(layers, IMAGES)
    nngp, ntk = dkp.nngp_and_ntk_kernels(layers, IMAGES, tile=2)
    np.testing.assert_allclose(nngp, k, rtol=1e-11)
    np.testing.assert_allclose(ntk, t, rtol=1e-11)
    np.testing.assert_allclose(dkp.ntk_kernel(layers, IMAGES[:2], IMAGES[1:]), t[:2, 1:], rtol=1e-7)


@pytest.mark.parametrize("parametrisation", ["ntk", "standard"])
def test_the_mean_tangent_kernel_of_a_network_with_one_hidden_layer(parametrisation):
    """It does not depend on the width. |z| < 4.5 over 10 numbers: a false-alarm rate of 7e-5 over
    seeds."""
    x, width = jnp.asarray(X[:4]), 8
    standard = parametrisation == "standard"

    def network(parameters, x):
        (w, b), (v, c) = parameters
        scales = (
            (1.0, 1.0, 1.0, 1.0)
            if standard
            else (np.sqrt(1.6 / 5), np.sqrt(0.2), np.sqrt(1.3 / width), 0.5)
        )
        hidden = jax.lax.erf(scales[0] * (x @ w) + scales[1] * b[None])
        return scales[2] * (hidden @ v) + scales[3] * c

    def draw(key):
        keys = jax.random.split(key, 4)
        scales = (
            (np.sqrt(1.6 / 5), np.sqrt(0.2), np.sqrt(1.3 / width), 0.5)
            if standard
            else (1.0, 1.0, 1.0, 1.0)
        )
        shapes = ((5, width), (width,), (width,), ())
        w, b, v, c = (
            s * jax.random.normal(k, shape)
            for s, k, shape in zip(scales, keys, shapes, strict=True)
        )
        jacobian = jax.jacobian(network)(((w, b), (v, c)), x)
        flat = jnp.concatenate([j.reshape(4, -1) for j in jax.tree.leaves(jacobian)], axis=1)
        return flat @ flat.T

    with relaxed():
        samples = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)))
    layers = [
        Affine(1.6, 0.2, parametrisation=parametrisation, width=5),
        Erf(),
        Affine(1.3, 0.25, parametrisation=parametrisation, width=width),
    ]
    z = (samples.mean(0) - dkp.ntk_kernel(layers, X[:4])) / (samples.std(0) / np.sqrt(len(samples)))
    assert np.max(np.abs(z)) < 4.5


def test_standard_parametrisation_of_a_convolution():
    """Every weight of the filter is one parameter: T = (channels * taps) average + 1, with a
    bias."""
    k = dkp.nngp_kernel([Conv(3, weight_var=1.7, bias_var=0.2), Flatten()], IMAGES)
    layer = Conv(3, weight_var=1.7, bias_var=0.2, parametrisation="standard", width=2)
    np.testing.assert_allclose(
        dkp.ntk_kernel([layer, Flatten()], IMAGES), 2 * 9 * (k - 0.2) / 1.7 + 1, rtol=1e-12
    )
    without = layer.replace(bias_var=0.0)
    np.testing.assert_allclose(
        dkp.ntk_kernel([without, Flatten()], IMAGES), 2 * 9 * (k - 0.2) / 1.7, rtol=1e-12
    )


# --- laws -----------------------------------------------------------------------------------------


def test_gram_matrices_see_the_same_kernel():
    from dkp.gram.gram import Inputs

    layers = [kernels.Linear(ard=True, weights=np.linspace(0.5, 2, 5)), *DENSE]
    gram = Chain(*layers)(Inputs(i=jnp.asarray(X), t=jnp.asarray(Y)))
    np.testing.assert_allclose(gram.ii, dkp.nngp_kernel(layers, X), rtol=1e-13)
    np.testing.assert_allclose(gram.ti, dkp.nngp_kernel(layers, Y, X), rtol=1e-13)
    np.testing.assert_allclose(gram.tt, np.diag(dkp.nngp_kernel(layers, Y)), rtol=1e-13)


def test_residual_and_repeat_are_what_they_abbreviate():
    block = [Affine(1.5, 0.1), ReLU(), Affine(0.7)]
    short = [Affine(), Repeat(Residual(*block), depth=3)]
    long = [Affine(), *[Sum(kernels.Identity(), Chain(*block)) for _ in range(3)]]
    for function in (dkp.nngp_kernel, dkp.ntk_kernel):
        np.testing.assert_allclose(function(short, X), function(long, X), rtol=1e-12)


def test_sums_of_networks_add_and_products_obey_the_product_rule():
    one, two = Chain(Affine(2.0), ReLU(), Affine(0.5)), Chain(Affine(1.2, 0.3), Erf(), Affine())
    k1, t1 = dkp.nngp_and_ntk_kernels([one], X)
    k2, t2 = dkp.nngp_and_ntk_kernels([two], X)
    np.testing.assert_allclose(dkp.ntk_kernel([Sum(one, two)], X), t1 + t2, rtol=1e-12)
    np.testing.assert_allclose(
        dkp.ntk_kernel([kernels.Product(one, two)], X), t1 * k2 + k1 * t2, rtol=1e-12
    )
    np.testing.assert_allclose(
        dkp.ntk_kernel([kernels.Scale(one, scale=3.0)], X), 3 * t1, rtol=1e-12
    )


def test_without_weights_nothing_is_trained():
    np.testing.assert_array_equal(dkp.ntk_kernel([kernels.Linear(), ReLU()], X), 0)


def test_float32_is_close_to_float64():
    for layers, x in ((DENSE, X), ([Conv(3), ReLU(), GlobalAvgPool(), Affine()], IMAGES)):
        low, high = (
            dkp.nngp_and_ntk_kernels(layers, x.astype(dtype)) for dtype in (np.float32, np.float64)
        )
        for a, b in zip(low, high, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_double_precision_becomes_single_where_jax_has_no_other():
    with jax.enable_x64(False):
        assert dkp.nngp_kernel(DENSE, X).dtype == np.float32


def test_depth_fifty_in_float32():
    layers = [Repeat([Affine(2.0), ReLU()], depth=50), Affine()]
    low, high = (dkp.nngp_kernel(layers, X.astype(dtype)) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(low, high, rtol=1e-5)


def test_a_given_array_takes_the_result(tmp_path):
    out = np.lib.format.open_memmap(tmp_path / "k.npy", mode="w+", dtype=np.float64, shape=(7, 7))
    assert dkp.nngp_kernel(DENSE, X, out=out, tile=2) is out
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), dkp.nngp_kernel(DENSE, X, tile=2))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((900, 900), (18, 18)),
        ((7, 7), (7, 7)),
        ((7, 900), (7, 47)),
        ((900, 7), (47, 7)),
        ((1, 900), (1, 144)),
        ((30, 20), (18, 18)),
    ],
)
def test_tiles_are_square_unless_few_points_meet_many(shape, expected):
    assert tiles._tile_of(334, shape) == expected


def test_few_points_and_many(monkeypatch):
    monkeypatch.setattr(tiles, "_TILE_ENTRIES", 16)
    whole = dkp.nngp_kernel(DENSE, np.concatenate([X, Y]), tile=11)
    np.testing.assert_allclose(dkp.nngp_kernel(DENSE, X, Y[:2]), whole[:7, 7:9], rtol=1e-13)
    np.testing.assert_allclose(dkp.nngp_kernel(DENSE, Y[:2], X), whole[7:9, :7], rtol=1e-13)


class Stops:
    """Tiles as ever, until one of them is interrupted; counts those that were computed."""

    def __init__(self, monkeypatch, at=math.inf):
        self.calls, self.at, self.tile = 0, at, nngp._tile
        monkeypatch.setattr(nngp, "_tile", self)

    def __call__(self, *args, **kwargs):
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.calls += 1
        return self.tile(*args, **kwargs)


@pytest.mark.parametrize("others", [None, Y])
def test_an_interrupted_computation_goes_on(tmp_path, monkeypatch, others):
    path, whole = tmp_path / "k.npy", dkp.ntk_kernel(DENSE, X, others, tile=2)
    total = 10 if others is None else 8
    first = Stops(monkeypatch, at=5)
    with pytest.raises(KeyboardInterrupt):
        dkp.ntk_kernel(DENSE, X, others, tile=2, out=path)
    assert first.calls == 5 and not path.exists()
    monkeypatch.undo()
    second = Stops(monkeypatch)
    found = dkp.ntk_kernel(DENSE, X, others, tile=2, out=str(path))
    assert second.calls == total - 4  # the fifth was computed, but not yet written
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(np.load(path), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]


def test_a_process_that_is_killed_leaves_what_it_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix_file, "_SECONDS", 0.0)
    # and never leaves
    file = matrix_file.MatrixFile(tmp_path / "k.npy", (3, 2), np.float64, "same").__enter__()
    file.matrix[0] = 7.0
    file.finished(1)
    with matrix_file.MatrixFile(tmp_path / "k.npy", (3, 2), np.float64, "same") as again:
        assert again.done == 1
        np.testing.assert_array_equal(again.matrix[0], 7.0)


def test_a_finished_file_is_replaced_and_another_beginning_refused(tmp_path, monkeypatch):
    path = tmp_path / "k.npy"
    dkp.nngp_kernel(DENSE, Y, out=path)
    Stops(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        dkp.nngp_kernel(DENSE, X, tile=2, out=path)
    assert np.load(path).shape == (4, 4)
    for other in (
        lambda: dkp.nngp_kernel(DENSE, X + 1, tile=2, out=path),
        lambda: dkp.nngp_kernel(DENSE, X, tile=3, out=path),
        lambda: dkp.nngp_kernel(DENSE[:3], X, tile=2, out=path),
        lambda: dkp.nngp_kernel([Affine(2.1, 0.1), *DENSE[1:]], X, tile=2, out=path),
        lambda: dkp.ntk_kernel(DENSE, X, tile=2, out=path),
    ):
        with pytest.raises(
            ValueError, match="Expected .*partial to be the beginning of this matrix.*Got"
        ):
            other()
    monkeypatch.undo()
    np.testing.assert_array_equal(
        dkp.nngp_kernel(DENSE, X, tile=2, out=path), dkp.nngp_kernel(DENSE, X, tile=2)
    )


def test_what_fails_at_once_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="Flatten"):
        dkp.nngp_kernel([Conv(3), ReLU()], IMAGES, out=tmp_path / "k.npy")
    assert not list(tmp_path.iterdir())


def test_functions_have_one_fingerprint_in_all_processes(tmp_path):
    def layers():
        return (kernels.Activation(lambda u: u), Affine())

    assert (
        len({nngp._fingerprint(layers(), jnp.asarray(X), jnp.asarray(Y), (1,)) for _ in range(2)})
        == 1
    )


def test_another_function_of_the_same_name_does_not_go_on(tmp_path, monkeypatch):
    first = Stops(monkeypatch, at=5)
    with pytest.raises(KeyboardInterrupt):
        dkp.nngp_kernel([kernels.Activation(lambda u: u)], X, tile=2, out=tmp_path / "k.npy")
    assert first.calls == 5
    monkeypatch.undo()
    with pytest.raises(ValueError, match="Expected .*beginning of this matrix.*Got "):
        dkp.nngp_kernel([kernels.Activation(lambda u: 1 - u)], X, tile=2, out=tmp_path / "k.npy")


LARGE, MANY = np.ones((2, 100, 100, 1)), np.ones((1100, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: dkp.nngp_kernel([ReLU(), GlobalAvgPool()], LARGE),
            "one pair of images with 100,000,000 numbers a pair",
        ),
        (lambda: dkp.nngp_kernel(DENSE, MANY, tile=500), "a smaller tile"),
        (
            lambda: dkp.nngp_kernel(DENSE, MANY),
            "Got 9,680,000 bytes where 9,000,000 are free: give out=",
        ),
    ],
)
def test_what_cannot_fit_into_memory_is_refused_before_anything_is_compiled(
    make, message, monkeypatch
):
    monkeypatch.setattr(tiles, "free_memory", lambda device: 9e6)
    Stops(monkeypatch, at=0)
    with pytest.raises(ValueError, match="Expected .*to fit into memory.*Got ") as caught:
        make()
    assert message in str(caught.value)


def test_free_memory_is_known():
    assert 1e8 < free_memory(device=False) < 1e14


def test_numbers_of_other_kinds_and_learned_hyperparameters():
    np.testing.assert_array_equal(
        dkp.nngp_kernel(DENSE, [[1, 2], [3, 4]]), dkp.nngp_kernel(DENSE, [[1.0, 2], [3, 4]])
    )
    start = dkp.nngp_kernel([Affine(dkp.learn(2.0)), ReLU()], X)
    np.testing.assert_array_equal(start, dkp.nngp_kernel([Affine(2.0), ReLU()], X))
    np.testing.assert_array_equal(start, dkp.nngp_kernel(Chain(Affine(2.0), ReLU()), X))


# --- bad input ------------------------------------------------------------------------------------

NAN = np.where(np.arange(7)[:, None] == 2, np.nan, X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(3, padding="same"), "padding=…"),
        (lambda: Conv(0), "filter_shape=…"),
        (lambda: Conv((3, 3, 3)), "filter_shape=…"),
        (lambda: AvgPool(2, strides=1.5), "strides=…"),
        (lambda: Affine(parametrisation="mup"), "parametrisation=…"),
        (lambda: Affine(parametrisation="standard"), "width=…"),
        (lambda: Affine(-1.0), "weight_var=…"),
        (lambda: dkp.nngp_kernel(DENSE, X, Y[:, :3]), "shape after the first axis"),
        (lambda: dkp.nngp_kernel(DENSE, X, Y.astype(np.float32)), "dtype of x1"),
        (lambda: dkp.nngp_kernel(DENSE, X[:, 0]), "x1 to have 2 or 4 axes"),
        (lambda: dkp.nngp_kernel(DENSE, X * 1j), "real numbers"),
        (lambda: dkp.nngp_kernel(DENSE, NAN), "x1 to be finite"),
        (
            lambda: dkp.nngp_kernel([Conv(3), Flatten()], np.where(IMAGES > 1, np.nan, IMAGES)),
            "x1 to be finite",
        ),
        (
            lambda: dkp.nngp_kernel([Conv(3), Flatten()], IMAGES, IMAGES[:, :3]),
            "shape after the first axis",
        ),
        (lambda: Conv((3, 2.0)), "filter_shape=…"),
        (lambda: dkp.nngp_kernel(DENSE, X, out=np.empty((3, 3))), "out of shape"),
        (lambda: dkp.nngp_kernel(DENSE, X, out=np.empty((7, 7), int)), "floating-point numbers"),
        (lambda: dkp.nngp_kernel(DENSE, X, out=[[0.0]]), "Got list"),
        (lambda: dkp.nngp_kernel(DENSE, X.astype(np.float16)), "float32 or float64"),
        (lambda: dkp.nngp_kernel([Conv(3), Flatten()], IMAGES[..., 0]), "x[..., None]"),
        (lambda: dkp.nngp_kernel(DENSE, X, tile=0), "tile"),
        (lambda: dkp.nngp_kernel([*DENSE, dkp.InverseWishart()], X), "without bottlenecks"),
        (lambda: dkp.nngp_kernel([], X), "at least one layer"),
        (lambda: dkp.nngp_kernel([Conv(3), ReLU(), Flatten()], X), "to get images"),
        (lambda: dkp.nngp_kernel([Conv(3), ReLU()], IMAGES), "Flatten"),
        (
            lambda: dkp.nngp_kernel([Conv(9, padding="VALID"), Flatten()], IMAGES),
            "at least 9 pixels",
        ),
        (
            lambda: dkp.nngp_kernel([Residual(Conv(3, strides=2)), Flatten()], IMAGES),
            "keep the size",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match="Expected .*Got ") as caught:
        make()
    assert message in str(caught.value)
