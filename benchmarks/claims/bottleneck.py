"""Claims on infinite networks with finite bottlenecks.

Representations, speed of training, the best width.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neural_network import MLPRegressor

import dkp
from benchmarks.claims.finding import Finding, listed
from dkp import kernels, likelihoods
from dkp.diagnostics.grams import label_alignment
from dkp.gram.alignment import centred_alignment
from dkp.model.defaults import deep_wishart_process
from dkp.model.hyperparameters import substitute
from dkp.theory import bottleneck_dynamics

__all__ = ["acceleration", "best_width", "learned_representations"]


def uci(name: str, split: int) -> tuple["dkp.Dataset", np.ndarray, np.ndarray]:
    """Training data of a published split, and its test inputs and targets."""
    table = dkp.datasets.load(f"uci/{name}", split=split)
    assert table.x_test is not None and table.y_test is not None
    return dkp.Dataset.from_arrays(table.x, table.y), table.x_test, table.y_test


def test_log_density(posterior: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(dkp.predict(posterior, x, key=jax.random.key(1)).log_density(y)))


# --- representations ------------------------------------------------------------------------------


def learned_representations(
    names: tuple[str, ...] = ("boston", "yacht"), splits: int = 3, depth: int = 3
) -> Finding:
    """A bottleneck lets an infinite network learn its kernels."""
    return judge_representations(
        {
            name: [_with_and_without(*uci(name, split), depth) for split in range(splits)]
            for name in names
        },
        depth,
    )


def judge_representations(rows: dict[str, list[dict[str, Any]]], depth: int) -> Finding:
    """From what :func:`_with_and_without` found on splits of some sets."""
    found = {name: _summary(of_set) for name, of_set in rows.items()}
    ahead = [name for name, f in found.items() if f["gain"] > 2 * f["error"]]
    aligned = [
        name
        for name, f in found.items()
        if f["learned"][0] < f["learned"][-1] and np.all(np.less(f["fixed"], f["learned"]))
    ]
    return Finding(
        claim="Infinitely wide networks have a fixed kernel; with finite bottlenecks they learn "
        "representations, and predict better",
        paper="Aitchison 2020; Ober & Aitchison 2021",
        computed=f"{len(next(iter(rows.values())))} splits, {depth} layers: deep Wishart process "
        "as wide as the data has features, against the same network without bottlenecks, "
        "hyperparameters learned in both: test log density, and centred alignment of the kernels "
        "with the targets' after every layer",
        number="; ".join(
            f"{name}: test log density {f['gain']:+.3f} ± {f['error']:.3f}, alignment "
            f"{listed(f['learned'])} with bottlenecks, {listed(f['fixed'])} without"
            for name, f in found.items()
        ),
        reproduced=bool(ahead and aligned),
        values={"splits": rows},
        deviation=f"Kernels align more, and more with depth, on {', '.join(aligned) or 'no set'}; "
        f"predictions are better on {', '.join(ahead) or 'no set'}: the hyperparameters of the "
        "infinite network are learned too",
    )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits, and the standard error of the gain in test log density."""
    gain = np.array([row["bottleneck"] - row["infinite"] for row in rows])
    learned, fixed = (
        np.mean([row[k] for row in rows], axis=0).tolist() for k in ("learned", "fixed")
    )
    error = float(gain.std(ddof=1) / math.sqrt(len(rows)))
    return {"gain": float(gain.mean()), "error": error, "learned": learned, "fixed": fixed}


def _with_and_without(
    data: "dkp.Dataset", x: np.ndarray, y: np.ndarray, depth: int
) -> dict[str, Any]:
    key = jax.random.key(0)
    infinite = dkp.condition(deep_wishart_process(math.inf, depth), data, key=key)
    bottleneck = dkp.fit_vi(
        deep_wishart_process(data.d, depth),
        data,
        key=key,
        n_inducing=100,
        steps=1500,
        guide="ab",
        progress=False,
    )
    alignment = label_alignment(bottleneck, bottleneck.sample(key, 20), key=key).mean(axis=0)
    # The same at every prefix of the network without bottlenecks: its input kernel, and one kernel
    # a layer.
    layers = infinite.fitted_model.layers
    prefixes = [dkp.nngp_kernel(layers[: n + 1], data.x) for n in range(1, depth + 1)]
    fixed = [
        float(centred_alignment(jnp.linalg.cholesky(_jittered(k)), jnp.asarray(data.y)))
        for k in prefixes
    ]
    return {
        "bottleneck": test_log_density(bottleneck, x, y),
        "infinite": test_log_density(infinite, x, y),
        "learned": alignment.tolist(),
        "fixed": fixed,
    }


def _jittered(kernel: np.ndarray) -> np.ndarray:
    return kernel + 1e-8 * np.trace(kernel) / len(kernel) * np.eye(len(kernel))


STEP, STEPS, FRACTION = 0.02, 400, 0.2
WIDTHS = (1, 4, 16, 64)


# --- speed of training ----------------------------------------------------------------------------


def acceleration() -> Finding:
    """When a narrow bottleneck trains faster than none."""
    widths = (1, 5, 20, 100)
    large, small = (
        [bottleneck_dynamics.acceleration(d, norm, repeats=20) for d in widths]
        for norm in (3.0, 1.0)
    )
    nonlinear = {norm: [_steps_to_fit(d, norm) for d in WIDTHS] for norm in (4.0, 0.5)}
    deviation = _against_real_network()
    times = "; ".join(
        f"targets of size {norm:g}: " + ", ".join(f"{t:.0f}" for t in found)
        for norm, found in nonlinear.items()
    )
    return Finding(
        claim="A single bottleneck accelerates the training of an infinitely wide network "
        "dramatically",
        paper="Littwin et al. 2021",
        computed="Linear case in closed form: time to 1% of the loss relative to no bottleneck, "
        f"widths {widths}. Error function, in function space: steps to {FRACTION:.0%} of the loss "
        f"(at most {STEPS}), widths {WIDTHS}; and the largest deviation of outputs from a real "
        "network of width 8,192, relative to their range",
        number="|beta| = 3: "
        + listed(large)
        + "; |beta| = 1: "
        + listed(small)
        + f"; {times}; deviation {deviation:.3f}",
        reproduced=max(large[:2]) < 0.7 < large[-1] < 1 and deviation < 0.05,
        values={
            "large": large,
            "small": small,
            "steps": {str(k): v for k, v in nonlinear.items()},
            "net": deviation,
        },
        deviation="Only where targets are large beside the width, |beta|^2 D > d: with small "
        "targets (|beta| = 1) a narrow bottleneck is slower",
    )


def _steps_to_fit(width: int, size: float, repeats: int = 3) -> float:
    """Mean over starts."""
    found = []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(12, 6))
        y = np.sin(x @ rng.normal(size=6))
        y = size * y / y.std()
        training = bottleneck_dynamics.train(
            kernels.Erf(),
            jnp.asarray(x @ x.T / 6),
            jnp.asarray(x @ rng.normal(size=(6, width)) / math.sqrt(6)),
            jnp.asarray(y),
            step=STEP,
            steps=STEPS,
        )
        below = np.flatnonzero(np.asarray(training.loss) <= FRACTION * float(training.loss[0]))
        found.append(int(below[0]) if below.size else STEPS)
    return float(np.mean(found))


def _against_real_network(width: int = 8192, steps: int = 150, step: float = 0.05) -> float:
    rng = np.random.default_rng(0)
    x, y, u = rng.normal(size=(6, 3)), np.sign(rng.normal(size=6)), rng.normal(size=(3, 2))
    inputs, start_of_g = jnp.asarray(x @ x.T / 3), jnp.asarray(x @ u / math.sqrt(3))
    ours = bottleneck_dynamics.train(
        kernels.Erf(), inputs, start_of_g, jnp.asarray(y), step=step, steps=steps
    )
    w, v = jnp.asarray(rng.normal(size=(2, width))), jnp.asarray(rng.normal(size=width))
    start = {"u": jnp.asarray(u), "w": jnp.stack([w, w]), "v": jnp.stack([v, v])}

    def network(p: dict[str, Any]) -> Any:
        """Two networks that start equal, subtracted, so that the output starts at 0."""
        inside = jnp.einsum(
            "nd,sdw->snw", jnp.asarray(x) @ p["u"] / math.sqrt(3), p["w"]
        ) / math.sqrt(2)
        both = jnp.einsum("snw,sw->sn", jax.scipy.special.erf(inside), p["v"]) / math.sqrt(width)
        return (both[0] - both[1]) / math.sqrt(2)

    @jax.jit
    def descent(p: dict[str, Any]) -> Any:
        def move(p: dict[str, Any], _: None) -> Any:
            slope = jax.grad(lambda p: jnp.sum((network(p) - y) ** 2) / 2)(p)
            return jax.tree.map(lambda a, g: a - step * g, p, slope), network(p)

        return jax.lax.scan(move, p, None, length=steps + 1)[1]

    theirs = np.asarray(descent(start))
    return float(np.abs(theirs - np.asarray(ours.outputs)).max() / np.ptp(theirs))


# --- the best width -------------------------------------------------------------------------------


def best_width(name: str = "yacht", splits: int = 3) -> Finding:
    """Test log density over the width of a deep Gaussian process, and over that of a network."""
    widths = (1, 2, 4, 8, 32, math.inf)
    deep = np.array(
        [_deep_process_over_width(*uci(name, split), widths) for split in range(splits)]
    )
    hidden = (4, 16, 64, 256, 1024)
    networks = np.array(
        [_networks_over_width(*uci(name, split), hidden) for split in range(splits)]
    )
    best, best_network = widths[int(deep.mean(0).argmax())], hidden[int(networks.mean(0).argmin())]
    gap = deep.mean(0).max() - deep[:, -1].mean()
    return Finding(
        claim="Hyperparameters fixed at the infinite limit, deep Gaussian processes predict best "
        "at widths of 1 to 2, while networks need many more units",
        paper="Pleiss & Cunningham 2021",
        computed=f"{name}, {splits} splits: test log density of a two-layer process "
        "(hyperparameters of its limit by evidence, variational posterior) at widths "
        f"{', '.join(f'{w:g}' for w in widths)}; test RMSE of regularised networks of one hidden "
        f"layer of {', '.join(map(str, hidden))} units",
        number=f"process: {listed(deep.mean(0))}; networks, RMSE: {listed(networks.mean(0))}",
        reproduced=best in (1, 2) and best_network > 2,
        values={
            "process": deep.tolist(),
            "networks": networks.tolist(),
            "best": str(best),
            "gap": float(gap),
        },
        deviation="" if best in (1, 2) else f"Best width here: {best:g}",
    )


def _two_layers(width: float | int) -> "dkp.DeepKernelProcess":
    layers = [kernels.Linear(ard=True), kernels.SquaredExponential(), dkp.Wishart(width=width)]
    return dkp.DeepKernelProcess(
        layers=[*layers[: 2 if width == math.inf else 3], kernels.SquaredExponential()],
        likelihood=likelihoods.Gaussian(),
    )


def _deep_process_over_width(
    data: "dkp.Dataset", x: np.ndarray, y: np.ndarray, widths: tuple[float | int, ...]
) -> list[float]:
    limit = dkp.condition(_two_layers(math.inf), data, key=jax.random.key(0))
    found = []
    for width in widths:
        if width == math.inf:
            found.append(test_log_density(limit, x, y))
            continue
        values = {_deeper(name): value for name, value in limit.hyperparameters.items()}
        model = substitute(_two_layers(width), values)
        posterior = dkp.fit_vi(
            model,
            data,
            key=jax.random.key(0),
            n_inducing=150,
            steps=1000,
            guide="ab",
            progress=False,
        )
        found.append(test_log_density(posterior, x, y))
    return found


def _deeper(name: str) -> str:
    """The last kernel is one place further back where there is a bottleneck."""
    return name.replace("layers.2.", "layers.3.")


def _networks_over_width(
    data: "dkp.Dataset", x: np.ndarray, y: np.ndarray, hidden: tuple[int, ...]
) -> list[float]:
    standardised, back, errors = (
        np.asarray(data.x_standardization.apply(x)),
        data.y_standardization,
        [],
    )
    for width in hidden:
        network = MLPRegressor(
            hidden_layer_sizes=(width,),
            alpha=1e-3,
            learning_rate_init=3e-3,
            max_iter=4000,
            tol=1e-6,
            random_state=0,
        )
        network.fit(np.asarray(data.x), np.asarray(data.y)[:, 0])
        predicted = network.predict(standardised) * np.asarray(back.scale) + np.asarray(back.mean)
        errors.append(float(np.sqrt(np.mean((predicted - y.ravel()) ** 2))))
    return errors
