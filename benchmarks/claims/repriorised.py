"""Claims on posterior sampling of wide Bayesian networks by repriorisation.

Its coordinates make the posterior like the prior.
"""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS

from benchmarks.claims.finding import Finding
from dkp.theory import finite

__all__ = ["approaches_prior", "mixing"]

POINTS, FEATURES = 16, 3
WIDTHS = (4, 16, 64, 256, 1024)
MIXED = (4, 32, 256, 1024)


def target(width: int, noise: float) -> finite.Repriorised:
    """The posterior of a network of one hidden layer on a few noisy points of a smooth function."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(POINTS, FEATURES))
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] + noise * rng.normal(size=(POINTS, 1))
    network = finite.Network((width,), jax.nn.gelu, weight_var=2.0, bias_var=0.01)
    return finite.Repriorised(network, jnp.asarray(x), jnp.asarray(y), noise)


def approaches_prior() -> Finding:
    """Acceptance of moves that leave the prior invariant, and the divergence of posterior and
    prior.
    """
    rows = {width: _against_prior(width) for width in WIDTHS}
    accepted = {step: [rows[w][f"acceptance {step}"] for w in WIDTHS] for step in (0.1, 0.5)}
    divergence = [rows[w]["divergence"] for w in WIDTHS]
    error = [rows[w]["error"] for w in WIDTHS]
    rises = all(np.all(np.diff(values) > 0) for values in accepted.values())
    falls = all(
        b < a + 2 * math.hypot(s, t)
        for (a, s), (b, t) in itertools.pairwise(zip(divergence, error, strict=True))
    )
    return Finding(
        claim="The wider the network, the nearer its repriorised posterior is to the prior, and "
        "the more often preconditioned Crank-Nicolson moves are accepted",
        paper="Hron et al. 2022; Pezzetti et al. 2024",
        computed=f"One hidden layer, {POINTS} points: acceptance at noise 0.1 and the symmetric "
        "divergence KL(p || q) + KL(q || p) of posterior and prior at noise 0.5, widths "
        f"{', '.join(map(str, WIDTHS))}",
        number="; ".join(
            f"acceptance at step {step}: " + ", ".join(f"{a:.2f}" for a in values)
            for step, values in accepted.items()
        )
        + "; divergence: "
        + ", ".join(f"{d:.2f} ± {e:.2f}" for d, e in zip(divergence, error, strict=True)),
        reproduced=bool(rises and falls and divergence[-1] < divergence[0] / 4),
        values={str(w): r for w, r in rows.items()},
        deviation="Slowly where the noise is small",
    )


def _against_prior(width: int) -> dict[str, float]:
    row = {
        f"acceptance {step}": target(width, 0.1)
        .sample(jax.random.key(0), 4000, step=step)
        .acceptance
        for step in (0.1, 0.5)
    }
    # exp(-Phi) is the density of the posterior in that of the prior, so the divergence is a
    # difference of two means.
    posterior = target(width, 0.5)
    phis = jax.random.normal(jax.random.key(1), (4000, posterior.size))
    prior = np.asarray(jax.jit(lambda phis: jax.lax.map(posterior.potential, phis))(phis))
    chain = np.asarray(posterior.sample(jax.random.key(2), 4000, step=0.3, thin=10).potential)[500:]
    blocks = chain[: len(chain) // 20 * 20].reshape(20, -1).mean(axis=1)
    row["divergence"] = float(prior.mean() - chain.mean())
    row["error"] = math.hypot(
        prior.std() / math.sqrt(len(prior)), blocks.std(ddof=1) / math.sqrt(20)
    )
    return row


def mixing() -> Finding:
    """Effective draws a second of predictions, with and without repriorisation, by the same
    sampler.
    """
    rows = {width: {name: _effective_draws(width, name) for name in SAMPLERS} for width in MIXED}
    ratios = {w: r["repriorised"]["per_second"] / r["plain"]["per_second"] for w, r in rows.items()}
    return Finding(
        claim="Repriorisation gives up to 50 times the effective sample size, at all widths, and "
        "more with width",
        paper="Hron et al. 2022",
        computed=f"NUTS of NumPyro on one hidden layer and {POINTS} points, noise 0.1, on all "
        "weights or with the readout integrated out: the smallest effective sample size of eight "
        "predictions a second, and its ratio",
        number="; ".join(
            f"width {w}: {r['repriorised']['per_second']:.0f} / {r['plain']['per_second']:.0f} = "
            f"{ratios[w]:.1f}"
            for w, r in rows.items()
        ),
        reproduced=min(ratios.values()) > 1 and ratios[MIXED[-1]] > ratios[MIXED[0]],
        values={str(w): r for w, r in rows.items()},
        deviation="Grows with width, but the gain is small on so few points, and in narrow "
        "networks there is none: NUTS finds long paths in either coordinates",
    )


def _effective_draws(width: int, sampler: str, draws: int = 500) -> dict[str, float]:
    from arviz import ess

    posterior = target(width, 0.1)
    new = jax.random.normal(jax.random.key(5), (8, FEATURES))
    potential, size, predict = SAMPLERS[sampler](posterior)
    mcmc = MCMC(
        NUTS(potential_fn=potential, target_accept_prob=0.8),
        num_warmup=500,
        num_samples=draws,
        num_chains=2,
        chain_method="sequential",
        progress_bar=False,
    )
    start = 0.3 * jax.random.normal(jax.random.key(0), (2, size))
    mcmc.warmup(jax.random.key(1), init_params=start)
    began = time.perf_counter()
    mcmc.run(jax.random.key(2), init_params=start)
    states = np.asarray(mcmc.get_samples(group_by_chain=True))
    seconds = time.perf_counter() - began
    keys = jax.random.split(jax.random.key(3), 2 * draws)
    found = jax.jit(lambda keys, s: jax.lax.map(lambda pair: predict(*pair, new), (keys, s)))(
        keys, states.reshape(2 * draws, -1)
    )
    values = np.asarray(found).reshape(2, draws, -1)
    effective = [float(np.asarray(ess(values[:, :, i]))) for i in range(values.shape[2])]
    return {"effective": min(effective), "seconds": seconds, "per_second": min(effective) / seconds}


def _integrated(posterior: finite.Repriorised) -> tuple[Callable, int, Callable]:
    """Hidden weights alone; the readout is drawn when predictions are made."""

    def potential(phi: Any) -> Any:
        return posterior.potential(phi) + jnp.sum(phi**2) / 2

    def predict(key: Any, phi: Any, x: Any) -> Any:
        return (posterior.network.readout_features(phi, x) @ posterior.readout(key, phi))[:, 0]

    return potential, posterior.size, predict


def _plain(posterior: finite.Repriorised) -> tuple[Callable, int, Callable]:
    """All weights, N(0, 1) a priori."""
    k = posterior.size

    def outputs(both: Any, x: Any) -> Any:
        return posterior.network.readout_features(both[:k], x) @ both[k:]

    def potential(both: Any) -> Any:
        error = jnp.sum((outputs(both, posterior.x) - posterior.y[:, 0]) ** 2) / posterior.noise**2
        return (error + jnp.sum(both**2)) / 2

    return potential, k + posterior.network.widths[-1] + 1, lambda key, both, x: outputs(both, x)


SAMPLERS = {"repriorised": _integrated, "plain": _plain}
