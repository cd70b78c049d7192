"""What is timed, with a clock that the test moves; and the row that a case prints."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.speed import hmc as speed_hmc
from benchmarks.speed import kernels as speed_kernels
from benchmarks.speed import timing
from benchmarks.speed import vi as speed
from benchmarks.tables.datasets import synthetic


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds

    def spend(self, seconds, value=None):
        self.seconds += seconds
        return value


def test_steps_and_products_alternate_and_the_first_step_stands_apart():
    clock, calls = Clock(), []

    def step(state):
        calls.append("step")
        return clock.spend(100.0 if state == 0 else float(state), state + 1)

    def product():
        calls.append("product")
        clock.spend(0.5)

    found = timing.measure(step, 0, product, repeats=3, clock=clock, warmup=2)
    assert found == timing.Timing(first=100.0, steps=[3.0, 4.0, 5.0], products=[0.5] * 3)
    assert calls == ["step", *["step", "product"] * 5]


def test_a_case_prints_its_row(monkeypatch, capsys):
    times = timing.Timing(first=2.0, steps=[0.3, 0.1, 0.2], products=[0.02, 0.04])
    monkeypatch.setattr(speed, "_data", lambda case: (None, 5_000_000))
    monkeypatch.setattr(speed, "_model", lambda case: None)
    monkeypatch.setattr(speed, "_vi_step", lambda case, model, data: (lambda state: state, 0))
    monkeypatch.setattr(speed, "measure", lambda step, state, product, repeats: times)
    monkeypatch.setattr(speed, "peak_bytes", lambda: 205_000_000)
    speed.run_case('{"n": 1000, "kernel": "relu", "dtype": "float32"}', repeats=3)
    row = json.loads(capsys.readouterr().out)
    expected = {
        "step_ms_min": 100.0,
        "step_ms_median": 200.0,
        "compile_s": 1.9,
        "ratio": 5.0,
        "product_ms_min": 20.0,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["peak_mb"], row["data_mb"], row["peak_beyond_data_mb"]) == (205.0, 5.0, 200.0)
    assert speed.table([row]).splitlines()[-1] == (
        "| relu | 3 | inverse-wishart | auto | float32 | 10 | 1000 | 455 | 100.0 | 200.0 | 1.9 | "
        "5.0 | 205 | 200 |"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_yardstick_is_ten_matrix_products(dtype):
    product = speed._matrix_product(speed.Case(dtype=dtype))()
    assert (product.shape, product.dtype) == ((10, 100, 455), dtype)


def test_a_case_of_kernels_prints_its_row(monkeypatch, capsys):
    times, peaks = (
        timing.Timing(first=2.0, steps=[0.3, 0.1, 0.2], products=[0.02, 0.04]),
        iter([3e8, 7e8]),
    )

    def measure(step, state, product, repeats, warmup):
        assert (repeats, warmup) == (5, 3) and product().shape == (40, 40)
        step(state)
        return times

    monkeypatch.setattr(speed_kernels, "measure", measure)
    monkeypatch.setattr(speed_kernels, "peak_bytes", lambda: next(peaks))
    speed_kernels.run_case('{"network": "pool", "n": 40, "reference_s": 0.5}', repeats=5)
    row = json.loads(capsys.readouterr().out)
    expected = {
        "seconds_min": 0.1,
        "compile_s": 1.9,
        "ratio": 5.0,
        "speedup": 5.0,
        "result_mb": 2 * 1600 * 4 / 1e6,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["peak_mb"], row["peak_before_mb"], row["peak_beyond_result_mb"]) == pytest.approx(
        (700, 300, 399.9872)
    )
    assert speed_kernels.table([row]).splitlines()[-1] == (
        "| pool | 40 | 0.100 | 0.200 | 0.5 | 5.0 | 5.0 | 1.9 | 700 | 300 | 0 |"
    )


@pytest.mark.parametrize(
    "case", [case for suite in speed_kernels.SUITES.values() for case in suite], ids=str
)
def test_every_row_of_kernels_computes_a_matrix(case):
    small = dataclasses.replace(case, n=3)
    found = speed_kernels._kernel(small, speed_kernels._points(small))()
    assert {k.shape for k in found} == {(3, 3)} if case.tangent else found.shape == (3, 3)


def test_exponents_are_slopes_of_the_logarithms():
    rows = [{"network": "dense", "n": n, "seconds_min": 1e-8 * n**1.7} for n in (10, 100, 500)]
    assert speed_kernels.exponents([*rows, {"network": "pool", "n": 3, "seconds_min": 1.0}]) == {
        "dense": pytest.approx(1.7)
    }


def test_suites_have_names_of_their_own():
    names = [name for module in (speed, speed_hmc, speed_kernels) for name in module.SUITES]
    assert len(names) == len(set(names))


def test_peak_memory_is_in_bytes():
    # An interpreter with JAX takes more than 50 MB; in kilobytes the number would be a thousand
    # times smaller.
    assert timing.peak_bytes() > 50e6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_synthetic_data_are_as_described(dtype):
    x, y = synthetic(20_000, 3, seed=1, dtype=dtype)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((20_000, 3), (20_000,), dtype, dtype)
    w, v = np.random.default_rng(1).standard_normal((2, 3)) / np.sqrt(3)
    noise = y - np.sin(x @ w) - x @ v
    # Fixed seed; 4 standard errors: a false alarm once in 16,000 seeds.
    assert noise.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * len(y)))


def test_rows_that_are_done_survive_an_interruption(monkeypatch, tmp_path):
    """They stand in a file of their own until all are done; an earlier record stays until then."""
    rows, path = iter([{"row": 1}, KeyboardInterrupt(), {"row": 3}]), tmp_path / "speed" / "vi.json"
    partial = path.with_name("vi.partial.json")

    def next_row(*_):
        row = next(rows)
        if isinstance(row, BaseException):
            raise row
        return row

    monkeypatch.setattr(timing, "_in_fresh_process", next_row)
    earlier = timing.write_suite("vi", tmp_path, [{"row": 0}])
    with pytest.raises(KeyboardInterrupt):
        timing.run_rows("vi", ["a", "b"], 1, tmp_path)
    assert json.loads(earlier.read_text())["rows"] == [{"row": 0}]
    assert json.loads(partial.read_text())["rows"] == [{"row": 1}]
    timing.write_suite("vi", tmp_path, timing.run_rows("vi", ["c"], 1, tmp_path))
    assert json.loads(path.read_text())["rows"] == [{"row": 3}] and not partial.exists()
