"""What is timed, with a clock that the test moves; and the row that a case prints."""

import json

import numpy as np
import pytest

from benchmarks import speed
from benchmarks.datasets import synthetic


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

    timing = speed.measure(step, 0, product, repeats=3, clock=clock, warmup=2)
    assert timing == speed.Timing(first=100.0, steps=[3.0, 4.0, 5.0], products=[0.5] * 3)
    assert calls == ["step", *["step", "product"] * 5]


def test_a_case_prints_its_row(monkeypatch, capsys):
    timing = speed.Timing(first=2.0, steps=[0.3, 0.1, 0.2], products=[0.02, 0.04])
    monkeypatch.setattr(speed, "_data", lambda case: (None, 5_000_000))
    monkeypatch.setattr(speed, "_model", lambda case: None)
    monkeypatch.setattr(speed, "_vi_step", lambda case, model, data: (lambda state: state, 0))
    monkeypatch.setattr(speed, "measure", lambda step, state, product, repeats: timing)
    monkeypatch.setattr(speed, "_peak_bytes", lambda: 205_000_000)
    speed.run_case('{"n": 1000, "kernel": "relu", "dtype": "float32"}', repeats=3)
    row = json.loads(capsys.readouterr().out)
    expected = {"step_ms_min": 100.0, "step_ms_median": 200.0, "compile_s": 1.9, "ratio": 5.0, "product_ms_min": 20.0}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["peak_mb"], row["data_mb"], row["peak_beyond_data_mb"]) == (205.0, 5.0, 200.0)
    assert speed.table([row]).splitlines()[-1] == (
        "| relu | float32 | 10 | 1000 | 455 | 100.0 | 200.0 | 1.9 | 5.0 | 205 | 200 |"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_yardstick_is_ten_matrix_products(dtype):
    product = speed._matrix_product(speed.Case(dtype=dtype))()
    assert (product.shape, product.dtype) == ((10, 100, 455), dtype)


def test_peak_memory_is_in_bytes():
    # An interpreter with JAX takes more than 50 MB; in kilobytes the number would be a thousand times smaller.
    assert speed._peak_bytes() > 50e6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_synthetic_data_are_as_described(dtype):
    x, y = synthetic(20_000, 3, seed=1, dtype=dtype)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((20_000, 3), (20_000,), dtype, dtype)
    w, v = np.random.default_rng(1).standard_normal((2, 3)) / np.sqrt(3)
    noise = y - np.sin(x @ w) - x @ v
    # Fixed seed; 4 standard errors: a false alarm once in 16,000 seeds.
    assert noise.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * len(y)))
