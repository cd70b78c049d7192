"""Guides of Wishart bottlenecks judged by Markov chains and by the evidence.

The data are subsets of two small UCI sets.

One model with fixed hyperparameters, so that the guide alone differs: the evidence minus the ELBO
is the divergence of the guide from the posterior, and what remains of it is the price of the guide.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.audit.inference import audit_each, described, distance
from benchmarks.speed.timing import markdown

__all__ = ["DATASETS", "GUIDES", "run_audit", "section", "table"]

DATASETS = ("yacht", "boston")
# By name, or by the fields of a WishartGuide: `dkp` is imported where its floating-point width is
# chosen.
GUIDES: dict[str, str | dict[str, Any]] = {
    **{name: name for name in ("features", "standard", "a", "b", "ab")},
    "dense A, B": {"rows": "dense", "columns": True},
    "standard, published mixing": {"mixing": "sum"},
}
ROWS, TEST_ROWS, POINTS, WIDTH = 60, 100, 10, 3


def run_audit(names: tuple[str, ...], out: Path, *, again: bool = False) -> Path:
    """Audit each set that has no record yet, print the table, and return the records' directory.

    Args:
        names: of ``DATASETS``.
        out: directory of all records; these stand in ``<out>/audit-guides/<name>.json``.
        again: repeat finished ones.
    """
    return audit_each(names, out / "audit-guides", audit, lambda: section(out), again=again)


def section(out: Path) -> str | None:
    """The table of the records in ``<out>/audit-guides``, and on what they depend; or None."""
    return described(out / "audit-guides", table)


def audit(name: str) -> dict[str, Any]:
    """All guides of one set, with hyperparameters that variational inference ("ab") learned."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import dkp
    from dkp.diagnostics import compare
    from dkp.model.hyperparameters import substitute

    split = dkp.datasets.load(f"uci/{name}", split=0)
    data = dkp.Dataset.from_arrays(split.x[:ROWS], split.y[:ROWS])
    assert split.x_test is not None
    x_test, keys, began = (
        split.x_test[:POINTS],
        jax.random.split(jax.random.key(0), 5),
        time.perf_counter(),
    )
    options: dict[str, Any] = {"n_inducing": ROWS, "steps": 4000, "samples": 2}
    learned = dkp.fit_vi(_model(), data, key=keys[0], **options)
    model = substitute(_model(), learned.hyperparameters)
    hmc = dkp.sample_hmc(model, data, key=keys[1], chains=4, warmup=500, draws=1000)
    evidence = dkp.log_evidence(model, data, key=keys[2], particles=1024, runs=4)
    guides = {}
    for guide, choice in GUIDES.items():
        chosen = choice if isinstance(choice, str) else dkp.guides.WishartGuide(**choice)
        fit = dkp.fit_vi(model, data, key=keys[3], guide=chosen, **options)
        found = compare(
            fit, hmc, x_test, key=keys[4], n_samples=1000, evidence=evidence.log_evidence
        )
        assert found.elbo[0] is not None
        guides[guide] = {
            "elbo": found.elbo[0].mean,
            "elbo_se": found.elbo[0].standard_error,
            "k_hat": found.k_hat[0],
            "predictive": distance(found.predictive),
            "gram": distance(found.grams[0]),
            "seconds": fit.seconds,
        }
    return {
        "dataset": name,
        "n": data.n,
        "evidence": evidence.log_evidence,
        "evidence_se": evidence.standard_error,
        "hmc": {k: v for k, v in hmc.summary().items() if isinstance(v, (int, float))},
        "guides": guides,
        "seconds": time.perf_counter() - began,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Records as a Markdown table."""
    titles = [
        "data set",
        "guide",
        "evidence - ELBO, nats",
        "k-hat",
        "shift of predictions, sd",
        "shift of G, sd",
    ]
    lines = []
    for r in records:
        for name, guide in r["guides"].items():
            gap, error = (
                r["evidence"] - guide["elbo"],
                (r["evidence_se"] ** 2 + guide["elbo_se"] ** 2) ** 0.5,
            )
            shifts = [f"{guide[part]['mean_shift']:.2f}" for part in ("predictive", "gram")]
            spread = f"{guide['gram']['spread']:.2f}"
            lines.append(
                [
                    r["dataset"],
                    name,
                    f"{gap:.1f} ± {error:.1f}",
                    f"{guide['k_hat']:.2f}",
                    *shifts,
                    spread,
                ]
            )
    return markdown([*titles, "sd of G, guide / HMC"], lines)


def _model() -> Any:
    """Two squared-exponential kernels with a narrow bottleneck between them."""
    import dkp

    layers = [
        dkp.kernels.Linear(ard=True),
        dkp.kernels.SquaredExponential(),
        dkp.Wishart(width=WIDTH),
        dkp.kernels.SquaredExponential(),
    ]
    return dkp.DeepKernelProcess(layers=layers, likelihood=dkp.likelihoods.Gaussian())
