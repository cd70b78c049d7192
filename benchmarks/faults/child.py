"""A small call of one engine with a checkpoint, in a process that may be killed.

It is called as ``child ENGINE CHECKPOINT RESULT``.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import dkp
from dkp import kernels, likelihoods

EVERY = 0.05


def _data(n: int) -> dkp.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    return dkp.Dataset.from_arrays(x, np.sin(2 * x[:, 0]) + 0.1 * rng.normal(size=n))


def _model(bottleneck: Any, lengthscale: Any) -> dkp.DeepKernelProcess:
    return dkp.DeepKernelProcess(
        layers=[
            kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0),
            bottleneck,
            kernels.SquaredExponential(lengthscale=1.0, variance=1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=0.2),
    )


def _fit_vi(checkpoint: Path, **options: Any) -> dict[str, np.ndarray]:
    posterior = dkp.fit_vi(
        _model(dkp.InverseWishart(), dkp.learn(1.0)),
        _data(60),
        key=jax.random.key(0),
        n_inducing=20,
        start_steps=1500,
        steps=3000,
        chunk=20,
        progress=False,
        checkpoint=checkpoint,
        every=EVERY,
        **options,
    )
    leaves = jax.tree.leaves(posterior.parameters)
    return {"trace": posterior.elbo_trace} | {
        f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)
    }


def _sample(checkpoint: Path, **options: Any) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short chains warn
        posterior = dkp.sample_hmc(
            _model(dkp.Wishart(width=2), dist.LogNormal(0.0, 1.0)),
            _data(25),
            key=jax.random.key(0),
            chains=2,
            warmup=300,
            draws=2000,
            progress=False,
            checkpoint=checkpoint,
            every=EVERY,
            **options,
        )
    return {"z": posterior.z} | {
        f"stats/{name}": values for name, values in posterior.stats.items()
    }


def _evidence(checkpoint: Path, **options: Any) -> dict[str, np.ndarray]:
    found = dkp.log_evidence(
        _model(dkp.InverseWishart(delta=5.0), 1.0),
        _data(15),
        key=jax.random.key(0),
        particles=256,
        runs=20,
        progress=False,
        checkpoint=checkpoint,
        every=EVERY,
        **options,
    )
    return {"runs": found.runs, "temperatures": found.temperatures, "z": found.posterior.z}  # type: ignore[attr-defined]


ENGINES: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "fit_vi": _fit_vi,
    "fit_vi, minibatches": lambda checkpoint: _fit_vi(checkpoint, batch_size=20),
    "sample_hmc, nuts": lambda checkpoint: _sample(checkpoint, method="nuts"),
    "sample_hmc, hmc": lambda checkpoint: _sample(checkpoint, method="hmc"),
    "sample_hmc, ess": lambda checkpoint: _sample(checkpoint, method="ess"),
    "log_evidence": _evidence,
}

if __name__ == "__main__":
    engine, checkpoint_path, result = sys.argv[1:]
    arrays: Any = ENGINES[engine](Path(checkpoint_path))
    np.savez(result, **arrays)
