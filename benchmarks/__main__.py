"""Command line of the benchmarks: ``run``, ``report``, ``audit``, ``claims``, ``speed``,
``faults``.
"""

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.extras import SubcommandApp

from benchmarks import config, store
from benchmarks import run as runner

app = SubcommandApp()
RESULTS = store.ROOT / "benchmarks" / "results"


@app.command
def run(
    *,
    suite: str,
    datasets: str = "",
    splits: str = "",
    methods: str = "",
    workers: int = 1,
    out: Path = RESULTS,
    dtype: Literal["float64", "float32"] = "float64",
    seed: int = 0,
    time_limit: float | None = None,
    again: bool = False,
    together: bool = False,
    settings: str = "",
) -> None:
    """Fit and score; finished runs are kept and not repeated.

    Args:
        suite: one of benchmarks.config.SUITES.
        datasets: names separated by commas; all of the suite when empty.
        splits: such as 0-4 or 0,2,5-7; those of the suite when empty.
        methods: names separated by commas; those of the suite when empty.
        workers: processes at a time, with as many cores each as the suite says.
        out: directory of the records.
        dtype: floating-point width.
        seed: of the random numbers.
        time_limit: seconds after which a run is stopped and counts as failed.
        again: repeat finished runs.
        together: fit the splits of a data set in one program, for accelerators.
        settings: changes to the suite's settings, such as steps=2000,samples=1.
    """
    try:
        runs = config.plan(
            suite,
            datasets=datasets,
            splits=splits,
            methods=methods,
            dtype=dtype,
            seed=seed,
            settings=settings,
        )
    except ValueError as error:
        sys.exit(str(error))
    failed = runner.run_all(
        runs,
        out,
        workers=workers,
        cores=config.SUITES[suite].cores,
        time_limit=time_limit,
        again=again,
        together=together,
    )
    if failed:
        sys.exit(
            f"{failed} runs failed; their records hold the reasons, and the same command tries "
            "them again"
        )


@app.command(name="run-one")
def run_one(
    configurations: tyro.conf.Positional[tuple[str, ...]], *, out: Path, cores: tuple[int, ...]
) -> None:
    """Do one run, or the splits of one, in this process (what `run` starts in each worker).

    Args:
        configurations: the runs, each as JSON.
        out: directory of the records.
        cores: the processor cores to stay on.
    """
    runner.run_one([config.Run.from_json(text) for text in configurations], out, cores)


@app.command
def report(
    *,
    suites: str = "",
    methods: str = "",
    out: Path = RESULTS,
    baseline: str = "gp",
    variants: bool = False,
    write: bool = False,
    root: Path = store.ROOT,
) -> None:
    """Print the tables of all finished runs, as Markdown, or write them into the pages of results.

    Args:
        suites: names separated by commas; all that have results when empty.
        methods: names separated by commas; all that have results when empty.
        out: directory of the records.
        baseline: the method that the others are compared with, split by split.
        variants: also show runs whose settings differ from their suite's.
        write: put every table between the markers of its name, in the README and the pages of
            docs/results; with suites named, only theirs.
        root: of the checkout with these pages.
    """
    from benchmarks import pages
    from benchmarks import report as reports

    try:
        sections = reports.tables(
            list(store.records(out)),
            suites=config.parse_names(suites),
            methods=config.parse_names(methods),
            baseline=baseline,
            variants=variants,
        )
        if not suites:
            sections |= pages.further_sections(out)
        if write:
            pages.write_pages(root, sections)
        else:
            print(reports.render(sections))
    except ValueError as error:
        sys.exit(str(error))


@app.command
def audit(
    *, datasets: str = "", guides: bool = False, out: Path = RESULTS, again: bool = False
) -> None:
    """Judge variational inference by Markov chains and by the evidence, on some rows of the small
    UCI sets.

    Args:
        datasets: names separated by commas; yacht, boston, energy, concrete and wine when empty.
        guides: compare the guides of a Wishart bottleneck, on yacht and boston when `datasets` is
            empty.
        out: directory of the records.
        again: repeat finished sets.
    """
    from benchmarks.audit import guides as of_guides
    from benchmarks.audit import inference as of_default

    audits = of_guides if guides else of_default
    audits.run_audit(tuple(config.parse_names(datasets)) or audits.DATASETS, out, again=again)


@app.command
def claims(*, only: str = "", out: Path = RESULTS, again: bool = False) -> None:
    """Compute the claims of the papers on finite, infinite and bottlenecked networks, each in under
    ten minutes.

    Args:
        only: names separated by commas; all when empty.
        out: directory of the records.
        again: repeat finished claims.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    from benchmarks.claims.run import run_claims

    try:
        run_claims(out, only=config.parse_names(only), again=again)
    except ValueError as error:
        sys.exit(str(error))


@app.command
def speed(
    *,
    suite: Literal["all", "vi", "depth", "scaling", "kernels", "kernels-large", "hmc"] = "all",
    repeats: int = 20,
    out: Path = RESULTS,
) -> None:
    """Time what matters next to a matrix product: seconds, compilation, memory, and the ratio of
    the two.

    Args:
        suite: vi (one optimiser step; kernels and dtypes), depth (the same with five kernels;
            bottlenecks and guides), scaling (growing data, fixed batch), kernels (NNGP and tangent
            kernels of infinite networks), kernels-large (20,000 points, 2 GB), hmc (effective draws
            a second, next to plain NumPyro; an hour), or all.
        repeats: timed steps a row, after warm-up.
        out: directory of the records.
    """
    for name in (
        ("vi", "depth", "scaling", "kernels", "kernels-large", "hmc")
        if suite == "all"
        else (suite,)
    ):
        _speeds(name).run_suite(name, out, repeats=repeats)


@app.command(name="speed-one")
def speed_one(
    suite: tyro.conf.Positional[str], case: tyro.conf.Positional[str], *, repeats: int
) -> None:
    """Time one row in this process and print it as JSON (what `speed` starts for each row).

    Args:
        suite: the suite of the row.
        case: the row, as JSON.
        repeats: timed steps, after warm-up.
    """
    _speeds(suite).run_case(case, repeats)


@app.command
def faults(
    what: tyro.conf.Positional[Literal["kills", "inputs", "fuzz"]],
    *,
    number: int = 10,
    seconds: int = 60,
    seed: int = 0,
    out: Path = RESULTS,
    again: bool = False,
) -> None:
    """Kill runs at random moments, feed malformed input, or fuzz the reader of files.

    Args:
        what: kills (of every engine), inputs (arrays, tables, model files, checkpoints), or fuzz
            (needs atheris).
        number: kills of an engine; 20 times as many inputs of a kind.
        seconds: of fuzzing.
        seed: of moments and inputs.
        out: directory of the records.
        again: repeat engines that have been killed already.
    """
    import dataclasses

    from benchmarks.faults import report as faults_report

    if what == "fuzz":
        from benchmarks.faults.fuzz import run_fuzz

        run_fuzz(seconds)
        return
    path = out / "faults" / f"{what}.json"
    rows: list[dict[str, Any]] = []
    if what == "kills":
        from benchmarks.faults.kills import run_kills

        rows = store.read(path)["rows"] if path.exists() and not again else []
        found: Iterable[Any] = run_kills(number, seed, done=[row["engine"] for row in rows])
    else:
        from benchmarks.faults.inputs import run_inputs

        found = run_inputs(20 * number, seed)
    for row in found:
        rows.append(dataclasses.asdict(row))
        store.write(path, {"date": store.now(), "versions": store.versions(), "rows": rows})
    print(faults_report.table(out / "faults"))


def _speeds(suite: str) -> Any:
    """The module with that suite."""
    from benchmarks.speed import hmc as speed_hmc
    from benchmarks.speed import kernels as speed_kernels
    from benchmarks.speed import vi as speed

    return next(module for module in (speed, speed_hmc, speed_kernels) if suite in module.SUITES)


def main() -> None:
    # A terminated runner must stop its workers, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app.cli(prog="python -m benchmarks", description=__doc__)
    except KeyboardInterrupt:
        sys.exit(
            "interrupted: finished runs are kept, and the same command continues with the others"
        )


if __name__ == "__main__":
    main()
