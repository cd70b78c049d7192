"""Kill -9 at random moments.

The same call, made again until it ends, gives what an undisturbed one gives.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from benchmarks.faults.child import ENGINES
from benchmarks.store import ROOT

__all__ = ["Outcome", "kill_engine", "run_kills"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What happened to one engine.

    Attributes:
        engine: its name.
        kills: processes that were killed.
        with_file: how many of these had written a checkpoint.
        identical: whether the result is that of an undisturbed run, to the last bit.
        seconds_undisturbed: how long that run took.
    """

    engine: str
    kills: int
    with_file: int
    identical: bool
    seconds_undisturbed: float


def run_kills(per_engine: int, seed: int, done: Collection[str] = ()) -> Iterator[Outcome]:
    """Every engine, but for those that are `done`, killed so many times."""
    for number, engine in enumerate(ENGINES):
        if engine not in done:
            yield kill_engine(engine, per_engine, np.random.default_rng([seed, number]))


def kill_engine(engine: str, kills: int, rng: np.random.Generator) -> Outcome:
    """Kill a call `kills` times, at moments that are uniform over what it takes when left alone,
    and compare. A call that ends before it is killed starts anew, and sooner: the machine is not
    always as busy.
    """
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        _finish(engine, place / "warm", place)  # fills the cache of compiled programs
        began = time.perf_counter()
        expected = _finish(engine, place / "undisturbed", place)
        seconds = time.perf_counter() - began
        done, with_file, identical, attempt, span = 0, 0, True, 0, seconds
        while done < kills:
            checkpoint, result = place / f"c{attempt}", place / f"r{attempt}.npz"
            process = _start(engine, checkpoint, result, place)
            try:
                process.wait(timeout=rng.uniform(0.3, 1.0) * span)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                with_file += checkpoint.exists()
                continue
            identical &= process.returncode == 0 and _same(_read(result), expected)
            attempt, span = attempt + 1, 0.9 * span
        last = _finish(engine, place / f"c{attempt}", place)
        identical &= _same(last, expected)
    outcome = Outcome(
        engine=engine,
        kills=done,
        with_file=with_file,
        identical=identical,
        seconds_undisturbed=seconds,
    )
    print(outcome, flush=True)
    return outcome


def _start(engine: str, checkpoint: Path, result: Path, place: Path) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
    }
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3"}  # every program from the cache would be announced
    environment |= {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [
        sys.executable,
        "-m",
        "benchmarks.faults.child",
        engine,
        str(checkpoint),
        str(result),
    ]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def _finish(engine: str, checkpoint: Path, place: Path) -> dict[str, np.ndarray]:
    result = place / f"{checkpoint.name}.finished.npz"
    if _start(engine, checkpoint, result, place).wait():
        raise RuntimeError(
            f"Expected {engine} to end when it is left alone. Got an error, printed above."
        )
    return _read(result)


def _read(result: Path) -> dict[str, np.ndarray]:
    with np.load(result) as arrays:
        return dict(arrays)


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[name], b[name], equal_nan=True) for name in a
    )
