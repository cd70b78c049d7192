"""The claim on residual networks: their kernels are near those of deep linear theory.

They are trained as is common.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dkp
from benchmarks.claims.finding import Finding, listed
from dkp import kernels
from dkp.theory import deep_linear

__all__ = ["residual_network"]

TRAINING, PROBES, CHANNELS, CLASSES = 20_000, 300, 32, 10
EPOCHS, BATCH = 10, 100
LEADING = 30
"""Eigenvalues that are compared."""


class Block(eqx.Module):
    """x + conv(relu(x)), and then a strided convolution of its rectified sum.

    The last block has none of the latter.
    """

    inner: eqx.nn.Conv2d
    down: eqx.nn.Conv2d | None

    def __init__(self, key: jax.Array, channels: int, *, last: bool) -> None:
        keys = jax.random.split(key)
        self.inner = _conv(keys[0], channels, channels)
        self.down = None if last else _conv(keys[1], channels, channels, strides=2)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is compared with kernels, and what the next block gets."""
        x = x + self.inner(jax.nn.relu(x))
        return x, x if self.down is None else self.down(jax.nn.relu(x))


class ResNet(eqx.Module):
    """A convolution, three residual blocks, global average pooling and a readout."""

    stem: eqx.nn.Conv2d
    blocks: list[Block]
    readout: eqx.nn.Linear

    def __init__(self, key: jax.Array, channels: int = CHANNELS) -> None:
        keys = jax.random.split(key, 5)
        self.stem = _conv(keys[0], 3, channels)
        self.blocks = [Block(k, channels, last=i == 2) for i, k in enumerate(keys[1:4])]
        self.readout = eqx.nn.Linear(channels, CLASSES, dtype=jnp.float32, key=keys[4])

    def __call__(self, image: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Logits, and features after the stem and every block; `image` is (3, H, W)."""
        x = self.stem(image)
        features = [x]
        for block in self.blocks:
            compared, x = block(x)
            features.append(compared)
        return self.readout(jnp.mean(jax.nn.relu(x), axis=(1, 2))), features


def _conv(key: jax.Array, inside: int, outside: int, strides: int = 1) -> eqx.nn.Conv2d:
    """With He's initial weights and no biases."""
    conv = eqx.nn.Conv2d(
        inside, outside, 3, stride=strides, padding=1, use_bias=False, dtype=jnp.float32, key=key
    )
    weight = jax.random.normal(key, conv.weight.shape, jnp.float32) * math.sqrt(2 / (9 * inside))
    return eqx.tree_at(lambda c: c.weight, conv, weight)


def residual_network() -> Finding:
    """Spectra and alignment of the layers of a trained residual network, of deep linear theory and
    of the infinite network.
    """
    table = dkp.datasets.load("cifar10", split=0)
    assert table.x_test is not None and table.y_test is not None
    x, y = coarse(table.x[:TRAINING]), table.y[:TRAINING].astype(int)
    x_test, y_test = coarse(table.x_test), table.y_test.astype(int)
    network = train(x, y)
    right = np.concatenate(
        [
            np.argmax(evaluate(network, rows)[0], axis=1)
            for rows in np.array_split(x_test[:5000], 10)
        ]
    )
    accuracy = float(np.mean(right == y_test[:5000]))

    rows = np.concatenate([np.flatnonzero(y == c)[: PROBES // CLASSES] for c in range(CLASSES)])
    probes, labels = x[rows], np.eye(CLASSES)[y[rows]]
    features = evaluate(network, probes)[1]
    trained = [_gram(f) for f in features]
    infinite = [dkp.nngp_kernel([*layers, kernels.Flatten()], probes) for layers in _prefixes()]
    inputs = _gram(probes)
    target = _gram(labels - labels.mean(0))
    target = target / np.trace(target) + 0.01 * np.eye(PROBES) / PROBES
    linear = list(
        deep_linear.geometric_interpolation(inputs / np.trace(inputs), target, len(trained)).grams
    )

    aligned = {
        name: [alignment(k, labels @ labels.T) for k in found]
        for name, found in (("trained", trained), ("linear", linear), ("infinite", infinite))
    }
    spectra = {
        name: [_distance(t, k) for t, k in zip(trained, found, strict=True)]
        for name, found in (("linear", linear), ("infinite", infinite))
    }
    nearer = {
        name: float(np.mean(np.abs(np.subtract(aligned["trained"], aligned[name]))))
        for name in ("linear", "infinite")
    }
    by_spectrum = np.mean(spectra["linear"]) < np.mean(spectra["infinite"])
    by_alignment = nearer["linear"] < nearer["infinite"]
    top = spectra["linear"][-1] < spectra["infinite"][-1]
    missed = [
        what for what, found in (("spectra", by_spectrum), ("alignment", by_alignment)) if not found
    ]
    return Finding(
        claim="Kernels of residual networks that were trained by SGD are much nearer to those of "
        "deep linear theory than to those of the infinite network",
        paper="Aitchison 2020, section 5",
        computed=f"CIFAR-10 at 16 x 16, {TRAINING} images, a residual network of 6 convolutions "
        f"(SGD with momentum, test accuracy {accuracy:.0%}), {PROBES} training images: alignment "
        f"with the labels' kernel after the stem and three blocks, and distance of the {LEADING} "
        "leading log eigenvalues (root mean square)",
        number="; ".join(f"alignment, {name}: {listed(values)}" for name, values in aligned.items())
        + "; distance of spectra to theory: "
        + listed(spectra["linear"])
        + ", to the infinite network: "
        + listed(spectra["infinite"]),
        reproduced=bool(by_spectrum and by_alignment),
        values={
            "alignment": aligned,
            "spectra": spectra,
            "accuracy": accuracy,
            "top_layer_nearer": bool(top),
        },
        deviation=""
        if not missed
        else f"Averaged over layers, nearer to the infinite network: {', '.join(missed)}",
    )


def train(x: np.ndarray, y: np.ndarray) -> ResNet:
    """By SGD with momentum, a cosine schedule and mirrored images; `x` is (N, H, W, 3)."""
    steps = EPOCHS * len(x) // BATCH
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(5e-4),
        optax.sgd(optax.cosine_decay_schedule(0.05, steps), momentum=0.9),
    )
    network = ResNet(jax.random.key(0))
    state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))

    def loss(network: ResNet, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jax.vmap(lambda image: network(image)[0])(images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @eqx.filter_jit
    def step(
        network: ResNet, state: Any, images: jax.Array, labels: jax.Array
    ) -> tuple[ResNet, Any]:
        slope = eqx.filter_grad(loss)(network, images, labels)
        updates, state = optimiser.update(slope, state, eqx.filter(network, eqx.is_inexact_array))
        return eqx.apply_updates(network, updates), state

    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for rows in np.array_split(order, len(x) // BATCH):
            images = np.where(
                rng.random(len(rows))[:, None, None, None] < 0.5, x[rows], x[rows][:, :, ::-1]
            )
            network, state = step(
                network, state, _channels_first(images), jnp.asarray(y[rows], jnp.int32)
            )
    return network


def evaluate(network: ResNet, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits and features of images."""
    logits, features = eqx.filter_jit(lambda net, images: jax.vmap(net)(images))(
        network, _channels_first(x)
    )
    return np.asarray(logits), [np.asarray(f, float) for f in features]


def _prefixes() -> list[list[Any]]:
    """The infinitely wide network up to its stem and up to each block."""

    conv, down = (kernels.Conv(3, strides=s, weight_var=2.0) for s in (1, 2))
    block = kernels.Residual(kernels.ReLU(), conv)  # pyright: ignore[reportCallIssue]
    layers: list[Any] = [conv]
    found = [layers]
    for i in range(3):
        layers = [*layers, block]
        found.append(layers)
        if i < 2:
            layers = [*layers, kernels.ReLU(), down]
    return found


def coarse(x: np.ndarray) -> np.ndarray:
    """Images of bytes at half their resolution, each channel centred and scaled."""
    x = (x.reshape(len(x), 16, 2, 16, 2, 3).mean((2, 4)) / 255).astype(np.float32)
    return (x - 0.47) / 0.25


def _channels_first(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x.transpose(0, 3, 1, 2))


def _gram(features: np.ndarray) -> np.ndarray:
    flat = np.asarray(features, float).reshape(len(features), -1)
    return flat @ flat.T / flat.shape[1]


def _centred(gram: np.ndarray) -> np.ndarray:
    return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Centred, of two Gram matrices."""
    a, b = _centred(a), _centred(b)
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of the leading log eigenvalues of centred matrices, each relative to the trace."""
    logs = [
        np.log(np.linalg.eigvalsh(_centred(g))[::-1][:LEADING] / np.trace(_centred(g)))
        for g in (a, b)
    ]
    return float(np.sqrt(np.mean((logs[0] - logs[1]) ** 2)))
