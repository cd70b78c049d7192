"""Independent runs in worker processes: one process a run, with as many threads as cores.

A process of its own gives each run a fresh JAX, its own floating-point width, and a memory that is
returned; a crash or a time limit ends one run and not the others.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks import store
from benchmarks.config import Run

__all__ = ["run_all", "run_one", "worker_environment"]

_POLL_SECONDS = 0.05


@dataclasses.dataclass(kw_only=True)
class _Worker:
    runs: list[Run]
    cores: list[int]
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    start: float


def run_all(
    runs: list[Run],
    out: Path,
    *,
    workers: int = 1,
    cores: int = 1,
    time_limit: float | None = None,
    again: bool = False,
    together: bool = False,
) -> int:
    """Do every run that has no finished record under `out`, and print one line for each.

    Args:
        runs: what to do, in order.
        out: directory of the records.
        workers: processes at a time; each is pinned to some of the cores that this process may use.
        cores: of each process.
        time_limit: wall-clock seconds after which a run is stopped and recorded as failed; None for
            no limit.
        again: also repeat finished runs.
        together: fit the splits of a data set in one program where the method can; they share a
            worker and its fate.

    Returns:
        The number of runs that failed.

    Raises:
        ValueError: when `workers`, `cores` or `time_limit` is not positive.
    """
    for name, number in (("workers", workers), ("cores", cores)):
        if number < 1:
            raise ValueError(f"Expected {name} to be at least 1. Got {number}.")
    if time_limit is not None and time_limit <= 0:
        raise ValueError(f"Expected time_limit to be positive seconds. Got {time_limit}.")
    # an installation that cannot be imported is an error here, and not once for each run
    store.versions()
    todo = [run for run in runs if again or not store.is_finished(store.path_of(out, run))]
    print(f"{len(runs)} runs, of which {len(runs) - len(todo)} are finished already", flush=True)
    return _drain(
        _groups(todo) if together else [[run] for run in todo],
        out.resolve(),
        _places(workers, cores),
        time_limit,
    )


def _groups(runs: list[Run]) -> list[list[Run]]:
    """Runs that differ in their split alone, in the order of the first of each group."""
    found: dict[Run, list[Run]] = {}
    for run in runs:
        found.setdefault(dataclasses.replace(run, split=0), []).append(run)
    return list(found.values())


def _places(workers: int, cores: int) -> list[list[int]]:
    """The cores of each worker; workers share them where there are not enough."""
    found = _cores()
    return [[found[(i * cores + j) % len(found)] for j in range(cores)] for i in range(workers)]


def _drain(
    todo: list[list[Run]], out: Path, free: list[list[int]], time_limit: float | None
) -> int:
    total = sum(map(len, todo))
    waiting, running, done, failed = list(todo), [], 0, 0
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(waiting.pop(0), free.pop(0), out))
            time.sleep(_POLL_SECONDS)
            for worker in [w for w in running if _is_over(w, time_limit)]:
                running.remove(worker)
                free.append(worker.cores)
                for run, record in _collect(worker, out, time_limit):
                    done, failed = done + 1, failed + (record["status"] != "finished")
                    print(f"[{done}/{total}] {_line(run, record)}", flush=True)
    finally:  # also on Ctrl-C: what is finished is on disk, and what is not will be started again
        for worker in running:
            _stop(worker)
    return failed


def run_one(runs: list[Run], out: Path, cores: Sequence[int]) -> None:
    """Do one run in this process, or several together, and write their records, whether they finish
    or fail.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    start = time.perf_counter()
    try:
        from benchmarks.tables import evaluate

        records = (
            [evaluate.evaluate(runs[0])] if len(runs) == 1 else evaluate.evaluate_together(runs)
        )
    except Exception:  # the traceback is the result of these runs
        seconds, error = time.perf_counter() - start, traceback.format_exc()
        records = [store.failure(run, error, seconds) for run in runs]
    for run, record in zip(runs, records, strict=True):
        store.write(store.path_of(out, run), {**record, "cores": len(set(cores))})


def worker_environment(dtype: str, cores: int = 1) -> dict[str, str]:
    """The environment of a worker.

    As many threads in every library as it has cores, and the floating-point width of `dtype`.
    """
    flags = (
        "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if cores == 1 else ""
    )
    threads = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
    return {
        **os.environ,
        **dict.fromkeys(threads, str(cores)),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        "JAX_ENABLE_X64": str(dtype == "float64"),
    }


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _start(runs: list[Run], cores: list[int], out: Path) -> _Worker:
    log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the worker runs
    texts = [run.to_json() for run in runs]
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "run-one",
        *texts,
        "--out",
        str(out),
        "--cores",
        *map(str, cores),
    ]
    # A session of its own keeps Ctrl-C away from the worker, whose fit would otherwise stop early
    # and be recorded.
    process = subprocess.Popen(
        command,
        cwd=store.ROOT,
        env=worker_environment(runs[0].dtype, len(cores)),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    return _Worker(runs=runs, cores=cores, process=process, log=log, start=time.monotonic())


def _is_over(worker: _Worker, time_limit: float | None) -> bool:
    late = time_limit is not None and time.monotonic() - worker.start > time_limit
    return worker.process.poll() is not None or late


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    worker.log.close()


def _collect(
    worker: _Worker, out: Path, time_limit: float | None
) -> list[tuple[Run, dict[str, Any]]]:
    """The records that the worker wrote, or else records of how it ended."""
    code = worker.process.poll()
    if code != 0:
        end = (
            f"Stopped after the time limit of {time_limit} s."
            if code is None
            else f"Exit status {code}."
        )
        worker.log.seek(0)
        error = f"{end}\n{worker.log.read()[-4000:].decode(errors='replace')}"
        for run in worker.runs:
            store.write(
                store.path_of(out, run), store.failure(run, error, time.monotonic() - worker.start)
            )
    _stop(worker)
    return [(run, store.read(store.path_of(out, run))) for run in worker.runs]


def _line(run: Run, record: dict[str, Any]) -> str:
    if record["status"] != "finished":
        return f"{run.label}: failed: {record['error'].strip().splitlines()[-1]}"
    named = (
        "log_density",
        "rmse",
        "accuracy_nngp",
        "accuracy_ntk",
        "log_density_nngp",
        "log_density_ntk",
    )
    shown = ", ".join(
        f"{name.replace('_', ' ')} {record['metrics'][name]:.4g}"
        for name in named
        if name in record["metrics"]
    )
    return f"{run.label}: {shown}, {record['times']['total']:.1f} s"
