"""Claims on the posterior of deep linear networks.

By gradient descent, by Langevin sampling, and over widths.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

import dkp
from benchmarks.claims import toy_width
from benchmarks.claims.finding import Finding
from dkp.theory import deep_linear

__all__ = ["evidence_over_width", "gradient_descent", "langevin"]

PAPER = "Aitchison 2020"


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def problem(n_points: int, n_features: int, n_outputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_points, n_features)), rng.normal(size=(n_points, n_outputs))


def _against_unmoved(errors: list[float], unmoved: list[float]) -> str:
    pairs = enumerate(zip(errors, unmoved, strict=True), 1)
    return ", ".join(f"layer {i} {a:.4f} ({b:.2f} unmoved)" for i, (a, b) in pairs)


# --- gradient descent -----------------------------------------------------------------------------


def gradient_descent() -> Finding:
    """Trained networks have the geometric interpolation between input and output kernels."""
    x, y = problem(6, 10, 6)
    decay, hidden = 1e-3, (40, 25)
    features = descend(x, y, hidden, decay=decay, step=4e-3, steps=200_000)
    predicted = deep_linear.weight_decay_grams(
        x @ x.T, features[-1] @ features[-1].T, len(hidden)
    ).grams
    errors = [relative_error(f @ f.T, k) for f, k in zip(features[:-1], predicted, strict=True)]
    still = [
        relative_error(f @ f.T, x @ x.T * np.trace(f @ f.T) / np.trace(x @ x.T))
        for f in features[:-1]
    ]
    return Finding(
        claim="Gradient descent moves kernels slowly from that of the inputs to that of the "
        "outputs, layer by layer: K_l = K_0 (K_0^-1 K_L+1)^(l / (L+1))",
        paper=f"{PAPER}, section 4",
        computed=f"Gradient descent with weight decay {decay} on a linear network with hidden "
        f"widths {hidden}: relative error of the interpolation, and of the unmoved input kernel",
        number=_against_unmoved(errors, still),
        reproduced=max(errors) < 0.02 and min(still) > 10 * max(errors),
        values={"interpolation": errors, "unmoved": still},
        deviation="For any hidden widths of at least the rank, from small initial weights",
    )


def descend(
    x: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], *, decay: float, step: float, steps: int
) -> list[np.ndarray]:
    """Features of all layers, outputs last, after gradient descent on the squared error / 2 with
    weight decay.
    """
    rng, sizes = np.random.default_rng(1), (x.shape[1], *hidden, y.shape[1])
    start = [
        jnp.asarray(0.02 * rng.normal(size=s) / np.sqrt(s[0]))
        for s in zip(sizes[:-1], sizes[1:], strict=True)
    ]

    def walk(weights: list[jax.Array]) -> list[jax.Array]:
        features = [jnp.asarray(x)]
        for w in weights:
            features.append(features[-1] @ w)
        return features[1:]

    def loss(weights: list[jax.Array]) -> jax.Array:
        squares = jnp.sum((walk(weights)[-1] - y) ** 2)
        return (squares + decay * sum(jnp.sum(w**2) for w in weights)) / 2

    @jax.jit
    def descent(weights: list[jax.Array]) -> list[jax.Array]:
        def move(_: jax.Array, weights: list[jax.Array]) -> list[jax.Array]:
            return jax.tree.map(lambda w, g: w - step * g, weights, jax.grad(loss)(weights))

        return jax.lax.fori_loop(0, steps, move, weights)

    return [np.asarray(f) for f in walk(descent(start))]


# --- Langevin sampling ----------------------------------------------------------------------------


def langevin() -> Finding:
    """The posterior mean of kernels of wide Bayesian linear networks, as many outputs as hidden
    units.
    """
    rows = {}
    for width in (25, 100):
        x, weights = problem(4, 8, width)[0], np.random.default_rng(1).normal(size=(8, width))
        y = x * np.linspace(0.3, 2.0, 8) @ weights / math.sqrt(8)
        means, acceptance = sample_weights(x, y, width, noise=0.1)
        k0, target = x @ x.T / x.shape[1], y @ y.T / width
        predicted = deep_linear.geometric_interpolation(k0, target, len(means)).grams
        rows[width] = {
            "interpolation": [relative_error(m, k) for m, k in zip(means, predicted, strict=True)],
            "unmoved": [relative_error(m, k0) for m in means],
            "acceptance": acceptance,
        }
    wide, narrow = rows[100], rows[25]
    return Finding(
        claim="Langevin sampling finds the same transition",
        paper=f"{PAPER}, section 4",
        computed="Metropolis-adjusted Langevin sampling of all weights of linear networks with "
        "two hidden layers, as many outputs as units, noise 0.1: relative error of the "
        "interpolation for the posterior mean of K_l",
        number="; ".join(
            f"width {w}: "
            + ", ".join(
                f"{a:.3f} ({b:.2f} unmoved)"
                for a, b in zip(r["interpolation"], r["unmoved"], strict=True)
            )
            for w, r in rows.items()
        ),
        reproduced=max(wide["interpolation"]) < 0.1
        and max(wide["interpolation"]) < max(narrow["interpolation"])
        and min(wide["unmoved"]) > 3 * max(wide["interpolation"]),
        values={str(w): r for w, r in rows.items()},
        deviation="Exact only as all widths grow together with the number of outputs: with few "
        "outputs kernels do not move",
    )


def sample_weights(
    x: np.ndarray, y: np.ndarray, width: int, *, noise: float, steps: int = 60_000
) -> tuple[list[np.ndarray], float]:
    """Posterior means of F F^T / width of both hidden layers, and the acceptance; weights are
    N(0, 1) a priori.
    """
    sizes = ((x.shape[1], width), (width, width), (width, y.shape[1]))
    xs, ys = jnp.asarray(x), jnp.asarray(y)

    def features(weights: list[jax.Array]) -> list[jax.Array]:
        found = [xs]
        for w in weights:
            found.append(found[-1] @ w / math.sqrt(w.shape[0]))
        return found[1:]

    def energy(weights: list[jax.Array]) -> jax.Array:
        error = jnp.sum((features(weights)[-1] - ys) ** 2) / noise**2
        return (error + sum(jnp.sum(w**2) for w in weights)) / 2

    evaluate = jax.value_and_grad(energy)

    def squared(
        a: list[jax.Array], b: list[jax.Array], g: list[jax.Array], h: jax.Array
    ) -> jax.Array:
        """|b - a + h g|^2 / (4 h): minus the log-density of the proposal b from a."""
        return sum(jnp.sum((v - u + h * s) ** 2) for u, v, s in zip(a, b, g, strict=True)) / (4 * h)

    def move(carry: tuple, key: jax.Array) -> tuple:
        w, value, slope, log_h, adapt = carry
        h, keys = jnp.exp(log_h), jax.random.split(key, len(w) + 1)
        new = [
            a - h * g + jnp.sqrt(2 * h) * jax.random.normal(k, a.shape)
            for a, g, k in zip(w, slope, keys[1:], strict=True)
        ]
        new_value, new_slope = evaluate(new)
        ratio = value - new_value + squared(w, new, slope, h) - squared(new, w, new_slope, h)
        probability = jnp.where(jnp.isfinite(ratio), jnp.exp(jnp.minimum(ratio, 0)), 0.0)
        accept = jax.random.uniform(keys[0]) < probability
        state = jax.tree.map(
            lambda a, b: jnp.where(accept, a, b), (new, new_value, new_slope), (w, value, slope)
        )
        grams = [f @ f.T / width for f in features(state[0])[:2]]
        return (*state, log_h + adapt * (probability - 0.6), adapt), (grams, probability)

    @jax.jit
    def chain(key: jax.Array) -> tuple:
        keys = jax.random.split(key, 5)
        start = [jax.random.normal(k, s) for k, s in zip(keys[:3], sizes, strict=True)]
        state = (start, *evaluate(start), jnp.log(1e-5), jnp.asarray(0.01))

        def keep(carry: tuple, key: jax.Array) -> tuple:
            state, sums = carry
            state, found = move(state, key)
            return (state, jax.tree.map(jnp.add, sums, found)), None

        none = ([jnp.zeros((len(x), len(x)))] * 2, jnp.zeros(()))
        state = jax.lax.scan(keep, (state, none), jax.random.split(keys[3], steps // 2))[0][0]
        state = (*state[:-1], jnp.zeros(()))  # the step stays as it is
        return jax.lax.scan(keep, (state, none), jax.random.split(keys[4], steps // 2))[0][1]

    grams, probability = chain(jax.random.key(0))
    return [np.asarray(g) / (steps // 2) for g in grams], float(probability) / (steps // 2)


# --- how wide? ------------------------------------------------------------------------------------


def evidence_over_width(sets: int = 6) -> Finding:
    """The evidence of the width that made the data."""
    widths = (1, 2, 4, 8, 16, 64, math.inf)
    logs = np.array(
        [
            [toy_width.importance_sampling(toy_width.toy(seed), w)[0] for w in widths]
            for seed in range(sets)
        ]
    )
    relative = logs - logs.max(axis=1, keepdims=True)
    mean, error = relative.mean(axis=0), relative.std(axis=0, ddof=1) / np.sqrt(sets)
    toy = toy_width.toy(0)
    data = dkp.Dataset.from_arrays(toy.x, toy.y, standardize=False)
    ours = dkp.compare_widths(
        toy_width.model(toy.noise),
        data,
        widths=[2, 4, 8, 64],
        key=jax.random.key(0),
        particles=256,
        runs=2,
        progress=False,
    )
    best = widths[int(np.argmax(mean))]
    same = int(np.argmax(ours.probability)) == 1
    shown = ", ".join(
        f"{w:g}: {m:.1f} ± {e:.1f}" for w, m, e in zip(widths[1:], mean[1:], error[1:], strict=True)
    )
    return Finding(
        claim="The evidence prefers the width of the network that made the data, not the infinite "
        "one",
        paper=f"{PAPER}, section 2",
        computed="Log evidence of widths by importance sampling, relative to the best, mean of "
        f"{sets} sets from linear networks of width 4; and `dkp.compare_widths` on the first",
        number=f"{shown}; `compare_widths` {'also prefers' if same else 'does not prefer'} 4",
        reproduced=best == 4 and same,
        values={
            "widths": [str(w) for w in widths],
            "relative": mean.tolist(),
            "error": error.tolist(),
        },
    )
