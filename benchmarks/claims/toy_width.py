"""How wide should a linear network be?

The evidence of widths on data of a network whose width is known.

Two layers, 4 inputs, 10 outputs, Gaussian noise, weights of variance 1 / fan-in; the data come from
such a network of width 4. Beside ``dkp.compare_widths`` stands an independent estimate in NumPy:
importance sampling with the algebra of 4 x 4 matrices,

    p(y | width n) = E_G prod_c N(y_c; 0, X G X^T / 4 + s^2 I),   n G = T T^T ~ W(I, n),

where T (4 x min(4, n)) is lower-trapezoidal, T_jj^2 ~ chi^2(n - j + 1), T_ij ~ N(0, 1). Its
proposal is a Student t distribution around the mode, in log T_jj and T_ij.

Source: Aitchison 2020 (arXiv 1910.08013), sections 1.1 and 2. Run it with ``python -m
benchmarks.claims.toy_width``.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import optimize, special, stats

import dkp
from dkp import kernels, likelihoods

__all__ = ["Toy", "importance_sampling", "log_likelihoods", "model", "toy"]

INPUTS, OUTPUTS = 4, 10
WIDTHS = (1, 2, 4, 8, 16, 64, math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    """A toy problem.

    Attributes:
        x: (N, 4).
        y: (N, C).
        noise: standard deviation.
    """

    x: np.ndarray
    y: np.ndarray
    noise: float


def toy(
    seed: int, *, n: int = 100, outputs: int = OUTPUTS, width: int = 4, noise: float = 0.1
) -> Toy:
    """Data of a network of known width."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, INPUTS))
    hidden = x @ rng.normal(size=(INPUTS, width)) / math.sqrt(INPUTS)
    y = hidden @ rng.normal(size=(width, outputs)) / math.sqrt(width)
    return Toy(x=x, y=y + noise * rng.normal(size=y.shape), noise=noise)


def model(noise: float) -> dkp.DeepKernelProcess:
    """The network as a deep kernel process, of width 1; ``compare_widths`` sets others."""
    layers = [kernels.Linear(), dkp.Wishart(width=1)]
    return dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=noise))


def log_likelihoods(problem: Toy) -> Callable[[np.ndarray], np.ndarray]:
    """From Gram matrices of the weights, (S, 4, 4), to log p(y | G), (S,)."""
    left, scale, right = np.linalg.svd(problem.x, full_matrices=False)
    inputs, inside = scale[:, None] * right / math.sqrt(INPUTS), left.T @ problem.y
    # Outside of the range of x the targets are noise.
    rest, count = np.sum(problem.y**2) - np.sum(inside**2), problem.y.size - inside.size
    outside = -(count * math.log(2 * math.pi * problem.noise**2) + rest / problem.noise**2) / 2

    def evaluate(gram: np.ndarray) -> np.ndarray:
        covariance = inputs @ gram @ inputs.T + problem.noise**2 * np.eye(INPUTS)
        _, log_det = np.linalg.slogdet(2 * math.pi * covariance)
        solved = np.linalg.solve(covariance, np.broadcast_to(inside, (len(gram), *inside.shape)))
        return outside - (inside.shape[1] * log_det + np.sum(solved * inside, axis=(1, 2))) / 2

    return evaluate


def importance_sampling(
    problem: Toy, width: float, *, draws: int = 100_000, seed: int = 0, starts: int = 5
) -> tuple[float, float]:
    """Log evidence of a width, and its standard error.

    Args:
        starts: from which the mode is looked for.
    """
    if math.isinf(width):
        return float(log_likelihoods(problem)(np.eye(INPUTS)[None])[0]), 0.0
    log_joint, size = _log_joint(problem, width)
    proposal = _proposal(log_joint, size, np.random.default_rng(seed), starts)
    points = proposal.rvs(draws, random_state=seed).reshape(draws, size)
    logs = log_joint(points) - proposal.logpdf(points)
    ratios = np.exp(logs - logs.max())
    return float(logs.max() + np.log(ratios.mean())), float(
        ratios.std() / ratios.mean() / math.sqrt(draws)
    )


def _log_joint(problem: Toy, width: float) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Log-density of (log T_jj, T_ij) and y, and the number of those coordinates."""
    likelihood, columns = log_likelihoods(problem), min(INPUTS, int(width))
    rows, cols = np.tril_indices(INPUTS, 0, columns)
    on_diagonal, df = rows == cols, width - np.arange(columns)

    def log_joint(points: np.ndarray) -> np.ndarray:
        diagonal, below = np.clip(points[:, on_diagonal], -30, 10), points[:, ~on_diagonal]
        factor = np.zeros((len(points), INPUTS, columns))
        factor[:, rows[on_diagonal], cols[on_diagonal]] = np.exp(diagonal)
        factor[:, rows[~on_diagonal], cols[~on_diagonal]] = below
        prior = (
            df * diagonal
            - np.exp(2 * diagonal) / 2
            - (df / 2 - 1) * math.log(2)
            - special.gammaln(df / 2)
        )
        gram = factor @ factor.transpose(0, 2, 1) / width
        return prior.sum(1) + stats.norm.logpdf(below).sum(1) + likelihood(gram)

    return log_joint, len(rows)


def _proposal(
    log_joint: Callable[[np.ndarray], np.ndarray], size: int, rng: np.random.Generator, starts: int
) -> Any:
    """A Student t distribution around the highest mode that is found, with the curvature there."""
    step = 1e-4

    def loss(point: np.ndarray) -> float:
        # The bound keeps line searches near numbers whose squares can be factorised.
        return -float(log_joint(np.clip(point, -1e3, 1e3)[None])[0])

    found = [
        optimize.minimize(loss, 0.5 * rng.normal(size=size), method="BFGS") for _ in range(starts)
    ]
    mode = min(found, key=lambda result: result.fun).x
    shifts = step * np.eye(size)
    around = mode + np.stack(
        [a * p + b * q for p in shifts for q in shifts for a in (1, -1) for b in (1, -1)]
    )
    values = log_joint(around).reshape(size, size, 2, 2)
    hessian = (values[..., 0, 0] - values[..., 0, 1] - values[..., 1, 0] + values[..., 1, 1]) / (
        4 * step**2
    )
    precision, axes = np.linalg.eigh(-(hessian + hessian.T) / 2)
    covariance = (axes / np.maximum(precision, 1e-2)) @ axes.T
    return stats.multivariate_t(mode, 1.3 * covariance, df=5)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="number of data sets")
    parser.add_argument("--widths", type=float, nargs="+", default=WIDTHS)
    parser.add_argument("--particles", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=4)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for seed in range(arguments.seeds):
        _compare(seed, arguments)


def _compare(seed: int, arguments: argparse.Namespace) -> None:
    problem, began = toy(seed), time.perf_counter()
    data = dkp.Dataset.from_arrays(problem.x, problem.y, standardize=False)
    options = {"particles": arguments.particles, "runs": arguments.runs}
    result = dkp.compare_widths(
        model(problem.noise), data, widths=arguments.widths, key=jax.random.key(seed), **options
    )
    print(f"data set {seed}, {time.perf_counter() - began:.0f} s\n{result}")
    for width, value, error, evidence in zip(
        result.widths, result.log_evidence, result.log_evidence_se, result.evidences, strict=True
    ):
        truth, truth_error = importance_sampling(problem, float(width))
        deviation = (value - truth) / max(math.hypot(error, truth_error), 1e-6)
        print(
            f"width {width:g}: importance sampling {truth:.2f} +- {truth_error:.2f}, difference "
            f"{value - truth:+.2f}, {deviation:+.1f} standard errors, {evidence.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
