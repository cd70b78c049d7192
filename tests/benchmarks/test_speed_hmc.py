"""The suite `hmc`: functionals by hand, densities by SciPy, what counts as a draw, and the rows and
tables."""

import collections
import contextlib
import dataclasses
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import stats

from benchmarks import pages
from benchmarks.speed import hmc as speed_hmc
from benchmarks.speed import hmc_baselines, hmc_chains, hmc_floor, hmc_problem
from benchmarks.speed.hmc_problem import DELTA, LENGTHSCALES, NOISE, WIDTH

N = 7
VALUES = {**dict(zip(LENGTHSCALES, (0.8, 1.3, 0.6), strict=True)), NOISE: 0.3}


@contextlib.contextmanager
def double_precision_as_usual():
    """NumPyro's distributions rely on promotions that the tests of the package forbid."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def problem(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3)), rng.standard_normal(n)


def squared_exponential(gram, lengthscale):
    return np.array(
        [
            [
                math.exp(-(gram[i, i] + gram[j, j] - 2 * gram[i, j]) / 2 / lengthscale**2)
                for j in range(len(gram))
            ]
            for i in range(len(gram))
        ]
    )


@pytest.mark.parametrize("columns", [3, N])
def test_functionals_are_of_gram_matrices(columns):
    _, y = problem()
    factors = np.random.default_rng(1).standard_normal((2, N, columns))
    with double_precision_as_usual():
        found = hmc_problem.functionals(VALUES, [jnp.asarray(f) for f in factors], jnp.asarray(y))
    centring = np.eye(N) - 1 / N
    for i, factor in enumerate(factors, start=1):
        gram, labels = factor @ factor.T, centring @ np.outer(y, y) @ centring
        centred = centring @ gram @ centring
        alignment = np.sum(centred * labels) / np.linalg.norm(centred) / np.linalg.norm(labels)
        eigenvalues = np.linalg.eigvalsh(gram)[-columns:]
        expected = {
            "log_det": np.log(eigenvalues).sum(),
            "trace": np.trace(gram),
            "alignment": alignment,
        }
        assert {name: found[f"{name}_{i}"] for name in expected} == pytest.approx(
            expected, rel=1e-6
        )
    kernel = squared_exponential(factors[1] @ factors[1].T, VALUES[LENGTHSCALES[2]])
    mean = kernel @ np.linalg.solve(kernel + VALUES[NOISE] ** 2 * np.eye(N), y)
    assert [found["prediction_0"], found["prediction_4"]] == pytest.approx(
        [mean[0], mean[-1]], rel=1e-6
    )
    assert {name: found[name] for name in VALUES} == VALUES


@pytest.mark.parametrize("name", hmc_baselines.MODELS)
def test_baselines_have_the_densities_they_claim(name):
    x, y = problem()
    rng, jitter = np.random.default_rng(2), 1e-6 * np.eye(N)
    expected = sum(stats.lognorm.logpdf(VALUES[name], 0.5) for name in LENGTHSCALES)
    expected += stats.lognorm.logpdf(VALUES[NOISE], 0.5, scale=math.exp(-1.5))
    kernel, sites = squared_exponential(x @ x.T / 3, VALUES[LENGTHSCALES[0]]), dict(VALUES)
    for i in (1, 2):
        scale, noise = kernel + jitter, rng.standard_normal((N, WIDTH))
        features = np.linalg.cholesky(scale) @ noise
        gram = features @ features.T / WIDTH
        if name == "gram":
            gram = gram + 0.1 * np.eye(N)
            sites["gram_" + str(i)] = gram
            expected += stats.invwishart.logpdf(gram, DELTA + N + 1, DELTA * scale)
        elif name == "features":
            sites["features_" + str(i)] = features.T
            expected += stats.multivariate_normal.logpdf(features.T, np.zeros(N), scale).sum()
        else:
            sites["whitened_" + str(i)] = noise
            expected += stats.norm.logpdf(noise).sum()
        kernel = squared_exponential(gram, VALUES[LENGTHSCALES[i]])
    expected += stats.multivariate_normal.logpdf(
        y, np.zeros(N), kernel + VALUES[NOISE] ** 2 * np.eye(N) + jitter
    )
    with double_precision_as_usual():
        arguments = (jnp.asarray(x), jnp.asarray(y))
        found, _ = log_density(
            hmc_baselines.MODELS[name], arguments, {}, {k: jnp.asarray(v) for k, v in sites.items()}
        )
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_smallest_effective_size_is_found_and_chains_that_stand_still_count_once():
    rng = np.random.default_rng(0)
    independent, slow = (
        rng.standard_normal((2, 500)),
        np.cumsum(rng.standard_normal((2, 500)), axis=1),
    )
    found = hmc_problem.effective({"a": independent, "b": slow, "c": independent + 1})
    assert (found.name, found.smallest < 30, 700 < found.median < 1500) == ("b", True, True)
    assert found.r_hat > 1.05
    still = hmc_problem.effective({"a": independent, "b": np.ones((2, 500))})
    assert (still.smallest, still.name, still.r_hat) == (2.0, "b", None)
    assert hmc_problem.effective({"a": independent[:, :3]}).smallest == 2.0


def test_seconds_of_compilation_are_counted_once():
    clock = hmc_chains.CompileClock()
    spans = [
        ("compile/a", 1.0, 4.0),
        ("compile/b", 2.0, 3.0),
        ("compile/c", 3.5, 5.0),
        ("compile/d", 8.0, 12.0),
    ]
    for name, start, end in spans:
        clock.note(f"/jax/core/{name}", start, end, fun_name="f")
    clock.note("/jax/other", 0.0, 100.0)
    assert [clock.seconds(0, 20), clock.seconds(4.5, 9), clock.seconds(5, 8)] == [8.0, 1.5, 0.0]


def test_jax_reports_what_it_compiles():
    with hmc_chains.CompileClock() as clock:
        jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).block_until_ready()
    assert clock.seconds(0, math.inf) > 0


@pytest.mark.parametrize(
    ("done", "kept", "ended"),
    [
        (6, [2, 3, 4, 5], "finished"),
        (4, [2, 3], "sampling"),
        (2, [1], "warm-up"),
        (1, [0], "warm-up"),
    ],
)
def test_draws_come_after_warm_up_or_from_the_later_half_of_it(done, kept, ended):
    assert hmc_chains._kept([list(range(done)), list(range(6))], 2, 4) == ([kept, kept], ended)


def test_chains_stop_at_the_time_limit():
    State = collections.namedtuple("State", ["z", "num_steps", "diverging"])
    state = State(np.ones(3), 8, True)
    assert hmc_chains._run(lambda state: state, state, 10, time_limit=0.0) == []
    done = hmc_chains._run(lambda state: state, state, 10, time_limit=math.inf)
    assert (len(done), done[0].z.shape, done[0].gradients, done[0].divergences) == (10, (3,), 8, 1)


@pytest.mark.parametrize("bottleneck", ["wishart", "inverse-wishart"])
def test_the_floor_has_finite_results(bottleneck):
    factors, products = hmc_floor.floor(bottleneck, 30)()
    assert [f.shape for f in factors] == [(30, 30)] * 3
    assert products.shape == (30, 30) and np.all(np.isfinite(products))


# --- rows and tables ------------------------------------------------------------------------------

GRADIENT = {"gradient_ms": 2.0, "floor_ms": 1.0, "factorisations_ms": 0.4, "products_ms": 0.6}


def sampled(**changes):
    draws = np.random.default_rng(0).standard_normal((2, 500))
    found = hmc_chains.Sampled(
        sampler="dkp, nuts",
        functionals={"a": draws, "b": draws},
        ended="finished",
        gradients=10_000,
        divergences=1,
        compile_s=5.0,
        warmup_s=15.0,
        sampling_s=20.0,
    )
    return dataclasses.replace(found, **changes)


def row(monkeypatch, capsys, case, **changes):
    monkeypatch.setattr(hmc_chains, "sample_ours", lambda *_, **__: (sampled(**changes), None))
    monkeypatch.setattr(hmc_chains, "sample_baseline", lambda *_, **__: sampled(**changes))
    monkeypatch.setattr(speed_hmc, "_gradient", lambda *_: GRADIENT)
    speed_hmc.run_case(json.dumps(case), repeats=3)
    return json.loads(capsys.readouterr().out)


def test_rows_and_tables(monkeypatch, capsys):
    ours = row(monkeypatch, capsys, {"bottleneck": "wishart", "n": 100, "method": "ours"})
    assert ours["gradients_per_draw"] == 10 and ours["ms_per_gradient"] == 4 and ours["converged"]
    assert ours["ess_per_s"] == pytest.approx(2 * ours["ess_per_s_total"]) == ours["ess_min"] / 20
    slower = {"bottleneck": "wishart", "n": 100, "method": "whitened"}
    slow = row(monkeypatch, capsys, slower, sampling_s=80.0)
    late = row(
        monkeypatch, capsys, {**slower, "method": "features"}, sampling_s=200.0, ended="warm-up"
    )
    lone = {**ours, "n": 400, "method": "hmc"}
    draws, gradients, growth = speed_hmc.table([ours, slow, late, lone]).split("\n\n")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in draws.splitlines()[2:]
    ]
    assert [line[2] for line in cells] == [
        "`sample_hmc`",
        "(c) features, whitened",
        "(b) features, centred",
    ]
    assert [line[-1] for line in cells] == ["", "4", "≥ 10"]
    assert cells[2][11] == "not done" and cells[2][13].startswith("≤")
    assert (
        gradients.splitlines()[2]
        == "| wishart | 100 | `sample_hmc` | 2.00 | 4.00 | 1.00 | 0.40 | 2.0 | 4.0 | 5.0 |"
    )
    assert [line.split("|")[2].strip() for line in growth.splitlines()[2:]] == ["100", "400"]


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [(True, True, "2"), (True, False, "≥ 2"), (False, True, "≤ 2"), (False, False, "-")],
)
def test_ratios_of_speeds_that_are_bounds(ours, theirs, shown):
    reference, row = {"converged": ours, "ess_per_s": 4.0}, {"converged": theirs, "ess_per_s": 2.0}
    assert (
        speed_hmc._slower(row, reference) == shown and speed_hmc._slower(reference, reference) == ""
    )


def test_the_report_takes_the_tables_from_the_record(monkeypatch, capsys, tmp_path):
    assert speed_hmc.section(tmp_path) is None
    ours = row(monkeypatch, capsys, {"bottleneck": "wishart", "n": 100, "method": "ours"})
    monkeypatch.setattr(speed_hmc, "run_rows", lambda *_, **__: [ours])
    speed_hmc.run_suite("hmc", tmp_path)
    text = speed_hmc.section(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("<!-- speed-hmc:begin -->\n<!-- speed-hmc:end -->\n")
    pages.write_between_markers(page, text, "speed-hmc")
    assert "| wishart | 100 | `sample_hmc` | 2.00 |" in page.read_text() and "jax" in text


def test_every_row_can_be_compared():
    cases = speed_hmc.SUITES["hmc"]
    ours = {(case.bottleneck, case.n) for case in cases if case.method == "ours"}
    assert all((case.bottleneck, case.n) in ours for case in cases if not case.is_ours)
    assert all(case.is_ours or case.time_limit for case in cases)
    assert {case.method for case in cases} >= {"gram", "features", "whitened"}
    assert all(
        (case.method == "gram") == (case.bottleneck == "inverse-wishart")
        for case in cases
        if not case.is_ours
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bottleneck", "method"), [("wishart", "ours"), ("inverse-wishart", "gram")]
)
def test_chains_run(monkeypatch, capsys, bottleneck, method):
    x, y = problem(n=6)
    data = types.SimpleNamespace(x=x, y=y)
    monkeypatch.setattr(hmc_problem.dkp.datasets, "load", lambda *_, **__: data)
    case = {
        "bottleneck": bottleneck,
        "n": 6,
        "method": method,
        "warmup": 10,
        "draws": 10,
        "time_limit": 60.0,
    }
    with double_precision_as_usual():
        speed_hmc.run_case(json.dumps(case), repeats=2)
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == 10 and found["ended"] == "finished"
    assert found["ess_min"] > 0 and found["compile_s"] > 0 and found["sampling_s"] > 0
    assert method != "ours" or found["gradient_ms"] > 0 and found["floor_ms"] > 0
