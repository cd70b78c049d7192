"""Effective draws a second of exact inference, next to plain NumPyro on the same posterior.

Gradients stand next to their factorisations and products.

Every row runs two chains side by side, with one thread of BLAS each; XLA's own threads, as many as
cores, serve both. The smallest effective sample size is over all functionals of ``hmc_problem``. A
sampler that does not get ready within its time limit is shown with what it had by then; where its
chains do not agree (R-hat), that is an upper bound.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

from benchmarks import store
from benchmarks.run import worker_environment
from benchmarks.speed.timing import markdown, measure, run_rows, write_suite

__all__ = ["CONVERGED", "SUITES", "Case", "run_case", "run_suite", "section", "table"]

Method = Literal["ours", "hmc", "gram", "features", "whitened"]
CONVERGED = 1.05  # largest R-hat of chains that count as such
# draws a chain, below which an effective size is not estimated and every chain counts once
FEWEST = 20
OURS = ("ours", "hmc")
LABELS = {
    "ours": "`sample_hmc`",
    "hmc": '`sample_hmc`, `method="hmc"`',
    "gram": "(a) Gram matrices, centred",
    "features": "(b) features, centred",
    "whitened": "(c) features, whitened",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One row: a posterior, a sampler, and how long it runs.

    method: "ours" is ``dkp.sample_hmc`` as it comes, which is NUTS, and "hmc" its method of that
    name; the others are models of ``hmc_baselines``, whose chains stop after `time_limit` seconds.
    """

    bottleneck: Literal["wishart", "inverse-wishart"]
    n: int
    method: Method
    warmup: int = 200
    draws: int = 300
    time_limit: float | None = None
    chains: int = 2
    seed: int = 0
    dtype: Literal["float64"] = "float64"

    @property
    def is_ours(self) -> bool:
        return self.method in OURS


SUITES = {
    "hmc": [
        Case(bottleneck="wishart", n=100, method="ours", draws=1000),
        Case(bottleneck="wishart", n=100, method="hmc", draws=1000),
        Case(bottleneck="wishart", n=100, method="whitened", draws=1000, time_limit=450),
        Case(bottleneck="wishart", n=100, method="features", warmup=100, time_limit=90),
        Case(bottleneck="wishart", n=200, method="ours", warmup=150, draws=400),
        Case(bottleneck="wishart", n=200, method="hmc", warmup=150, draws=400),
        Case(bottleneck="wishart", n=200, method="whitened", warmup=100, time_limit=700),
        Case(bottleneck="wishart", n=200, method="features", warmup=100, time_limit=180),
        Case(bottleneck="inverse-wishart", n=100, method="ours"),
        Case(bottleneck="inverse-wishart", n=100, method="gram", warmup=100, time_limit=60),
        Case(bottleneck="inverse-wishart", n=200, method="ours", warmup=150, draws=400),
        Case(bottleneck="inverse-wishart", n=200, method="gram", warmup=100, time_limit=300),
        Case(bottleneck="wishart", n=50, method="ours"),
        Case(bottleneck="wishart", n=50, method="hmc"),
        Case(bottleneck="wishart", n=400, method="hmc", warmup=40, draws=40),
    ]
}


def run_case(text: str, repeats: int) -> None:
    """Run one case, given as JSON, in this process and print the row as one line of JSON."""
    from benchmarks.speed import hmc_chains

    case, wall, processor = Case(**json.loads(text)), time.perf_counter(), time.process_time()
    numbers: dict[str, Any] = {
        name: getattr(case, name) for name in ("chains", "warmup", "draws", "seed")
    }
    if case.is_ours:
        options: dict[str, Any] = {} if case.method == "ours" else {"method": case.method}
        sampled, posterior = hmc_chains.sample_ours(case.bottleneck, case.n, **numbers, **options)
    else:
        limit = float("inf") if case.time_limit is None else case.time_limit
        sampled = hmc_chains.sample_baseline(case.method, case.n, time_limit=limit, **numbers)
        posterior = None
    # Of the whole row: compilation takes one processor, and a chain that is done waits for the
    # other.
    share = (time.process_time() - processor) / (time.perf_counter() - wall)
    row = {**dataclasses.asdict(case), **_numbers(sampled, case.chains), "processor_share": share}
    print(json.dumps(row | (_gradient(case, posterior, repeats) if case.is_ours else {})))


def _numbers(sampled: Any, chains: int) -> dict[str, Any]:
    """What a row says about chains."""
    from benchmarks.speed.hmc_problem import effective

    found, kept = effective(sampled.functionals), next(iter(sampled.functionals.values())).shape[1]
    seconds = sampled.sampling_s
    return {
        "sampler": sampled.sampler,
        "ended": sampled.ended,
        "kept": kept,
        "ess_min": found.smallest,
        "ess_min_of": found.name,
        "ess_median": found.median,
        "r_hat": found.r_hat,
        "converged": sampled.ended != "warm-up"
        and found.r_hat is not None
        and found.r_hat <= CONVERGED,
        "divergences": sampled.divergences,
        "compile_s": sampled.compile_s,
        "warmup_s": sampled.warmup_s,
        "sampling_s": seconds,
        "ess_per_s": found.smallest / seconds,
        "ess_per_s_total": found.smallest / (sampled.compile_s + sampled.warmup_s + seconds),
        "gradients_per_draw": sampled.gradients / (kept * chains),
        "ms_per_gradient": 1e3 * seconds * chains / sampled.gradients,
        "gradients_per_ess": sampled.gradients / found.smallest,
        "s_per_ess": seconds / found.smallest,
    }


def run_suite(name: str, out: Path, *, repeats: int = 20) -> Path:
    """Run every case of a suite, print the tables, and write the rows to
    ``<out>/speed/<name>.json``.

    Raises:
        RuntimeError: when a row fails, with what its process said.
    """
    rows = run_rows(name, SUITES[name], repeats, out, environment=worker_environment("float64"))
    path = write_suite(name, out, rows)
    print(table(rows))
    return path


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as three Markdown tables: effective draws, gradients, and growth with N."""
    rows = [_counted(row) for row in rows]
    ours = [row for row in rows if row["method"] in OURS]
    return "\n\n".join([_draws_table(rows), _gradients_table(ours), _growth_table(ours)])


def section(out: Path) -> str | None:
    """The tables of the rows in ``<out>/speed/hmc.json``, and on what they depend; None where there
    is no such file.
    """
    path = out / "speed" / "hmc.json"
    if not path.exists():
        return None
    record = store.read(path)
    where = f"{record['date'][:10]}; {record['cores']} cores"
    return f"{table(record['rows'])}\n\n{where}. {store.listed_versions([record])}."


def _gradient(case: Case, posterior: Any, repeats: int) -> dict[str, float]:
    """Times of one gradient by itself, and of its floor, in turn."""
    import jax

    from benchmarks.speed import hmc_floor

    gradient = jax.jit(jax.value_and_grad(posterior.coordinates.log_posterior))
    z, floor = jax.numpy.asarray(posterior.z[0, -1]), hmc_floor.floor(case.bottleneck, case.n)
    alone = measure(lambda _: jax.block_until_ready(gradient(z)), None, floor, repeats)
    cholesky, products = (
        hmc_floor.factorisations(case.n),
        hmc_floor.products(case.bottleneck, case.n),
    )
    parts = measure(lambda _: cholesky(), None, products, repeats)
    found = {
        "gradient_ms": min(alone.steps),
        "floor_ms": min(alone.products),
        "factorisations_ms": min(parts.steps),
        "products_ms": min(parts.products),
    }
    return {name: seconds * 1e3 for name, seconds in found.items()}


def _draws_table(rows: list[dict[str, Any]]) -> str:
    titles = [
        "bottlenecks",
        "N",
        "sites",
        "draws",
        "gradients a draw",
        "ms a gradient",
        "ESS, smallest",
        "median",
    ]
    titles += [
        "R-hat",
        "divergences",
        "compile, s",
        "warm-up, s",
        "sampling, s",
        "ESS a s",
        "all included",
        "slower by",
    ]
    reference = {(r["bottleneck"], r["n"]): r for r in rows if r["method"] == "ours"}
    compared = {(r["bottleneck"], r["n"]) for r in rows if r["method"] not in OURS}
    lines = []
    for r in rows:
        if (r["bottleneck"], r["n"]) not in compared:
            continue
        above = "" if r["converged"] else "≤ "
        sizes = [r["bottleneck"], r["n"], LABELS[r["method"]], f"{r['chains']} x {r['kept']}"]
        sizes += [f"{r['gradients_per_draw']:.0f}", f"{r['ms_per_gradient']:.2f}"]
        quality = [
            f"{above}{r['ess_min']:.0f}",
            f"{r['ess_median']:.0f}",
            _r_hat(r),
            r["divergences"],
        ]
        times = [f"{r['compile_s']:.1f}", _warmup(r), f"{r['sampling_s']:.0f}"]
        speeds = [f"{above}{r[name]:.3g}" for name in ("ess_per_s", "ess_per_s_total")]
        lines.append(
            [*sizes, *quality, *times, *speeds, _slower(r, reference[r["bottleneck"], r["n"]])]
        )
    return markdown(titles, lines)


def _slower(row: dict[str, Any], reference: dict[str, Any]) -> str:
    """Speed of the reference by that of the row; a speed that is an upper bound makes it a bound,
    and two of them make it nothing.
    """
    if row is reference:
        return ""
    signs = {(True, True): "", (True, False): "≥ ", (False, True): "≤ "}
    sign = signs.get((reference["converged"], row["converged"]))
    return "-" if sign is None else f"{sign}{reference['ess_per_s'] / row['ess_per_s']:.2g}"


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    """The row, where every chain counts once if it is too short to say how much its draws are
    worth.
    """
    if row["kept"] >= FEWEST:
        return row
    share = row["chains"] / row["ess_min"]
    scaled = {name: row[name] * share for name in ("ess_min", "ess_per_s", "ess_per_s_total")}
    scaled |= {name: row[name] / share for name in ("gradients_per_ess", "s_per_ess")}
    return {**row, **scaled, "ess_median": row["chains"]}


def _r_hat(row: dict[str, Any]) -> str:
    return "-" if row["r_hat"] is None else f"{row['r_hat']:.2f}"


def _warmup(row: dict[str, Any]) -> str:
    return "not done" if row["ended"] == "warm-up" else f"{row['warmup_s']:.0f}"


def _gradients_table(rows: list[dict[str, Any]]) -> str:
    titles = ["bottlenecks", "N", "sites", "ms a gradient, alone", "in the chains", "floor, ms"]
    titles += ["of it factorisations", "alone / floor", "in the chains / floor", "compile, s"]
    names = ("gradient_ms", "ms_per_gradient", "floor_ms", "factorisations_ms")
    lines = []
    for r in _by_size(rows):
        ratios = [f"{r[name] / r['floor_ms']:.1f}" for name in ("gradient_ms", "ms_per_gradient")]
        sizes = [r["bottleneck"], r["n"], LABELS[r["method"]]]
        lines.append([*sizes, *(f"{r[n]:.2f}" for n in names), *ratios, f"{r['compile_s']:.1f}"])
    return markdown(titles, lines)


def _growth_table(rows: list[dict[str, Any]]) -> str:
    titles = ["bottlenecks", "N", "sites", "ESS, smallest", "R-hat", "gradients per effective draw"]
    lines = []
    for r in _by_size(rows):
        above, below = ("", "") if r["converged"] else ("≤ ", "≥ ")
        sizes = [
            r["bottleneck"],
            r["n"],
            LABELS[r["method"]],
            f"{above}{r['ess_min']:.0f}",
            _r_hat(r),
        ]
        lines.append(
            [*sizes, f"{below}{r['gradients_per_ess']:.0f}", f"{below}{r['s_per_ess']:.2g}"]
        )
    return markdown([*titles, "seconds per effective draw"], lines)


def _by_size(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda r: (r["bottleneck"] != "wishart", r["n"]))
