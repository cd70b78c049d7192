"""Strict numerics for every test: float64, no silent promotion of dtypes or ranks; and programs
that are compiled once.

Nothing here may import ``dkp``: the jaxtyping hook that checks its signatures is installed after
this file is read."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
# Before NumPy and SciPy are loaded: the threads of BLAS wait in busy loops, and test processes run
# side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# XLA tells of every program that it reads from a file
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Most programs of tests run once, so the work of XLA and LLVM on their speed does not pay: without
# it laws take half the CPU time, and so does tempering. Flags given by hand come later, and win:
# `XLA_FLAGS=--xla_backend_optimization_level=3 pytest …`.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # XLA ends the process at a flag that it does not know, and newer versions know this no more
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.9.") else "",
        os.environ.get("XLA_FLAGS", ""),
    )
)

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests compile equal programs again and again, for models that are equal and not the same. Each
# process has a directory of its own, because JAX writes an entry while others may read it.
_PROGRAMS = tempfile.mkdtemp(prefix="dkp-programs-")
jax.config.update("jax_compilation_cache_dir", _PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A law over a long table, ``@pytest.mark.rows(n)``: the fast tier checks n rows, evenly spaced
    from the first to the last, and the slow tier all others. Of rows asked for by name, those are
    the table."""
    tables: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("rows"):
            tables.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for rows in tables.values():
        marker = rows[0].get_closest_marker("rows")
        assert marker is not None
        n = min(marker.args[0], len(rows))
        kept = {round(i * (len(rows) - 1) / max(n - 1, 1)) for i in range(n)}
        for i, item in enumerate(rows):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays until the end: modules and thousands of tests. Tracing
    makes so many objects that it would look through them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_unconfigure() -> None:
    """Delete the programs."""
    shutil.rmtree(_PROGRAMS, ignore_errors=True)


@pytest.fixture
def key() -> jax.Array:
    """A fixed PRNG key: a failure repeats."""
    return jax.random.key(20)


@pytest.fixture
def _unchecked() -> Iterator[None]:
    """The package as its users have it: without runtime checks of the annotations, which would come
    first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


_MOST_MAPPINGS = 30_000  # Linux allows a process 65,530


@pytest.fixture(autouse=True, scope="module")
def memory_mappings() -> Iterator[None]:
    """Every compiled program is a few mappings of memory, and a process that has no more of them
    left dies."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
