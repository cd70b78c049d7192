"""The runner from end to end, with the method that only knows the mean."""

import dataclasses
import subprocess

import numpy as np
import pytest
from scipy import stats

import dkp
from benchmarks import config, store
from benchmarks import run as runner
from benchmarks.tables import evaluate
from tests.support import relaxed

RUNS = config.plan("smoke", methods="mean")


def test_a_run_is_scored_in_original_units_and_is_not_repeated(tmp_path, capsys, monkeypatch):
    assert runner.run_all(RUNS, tmp_path) == 0
    path = store.path_of(tmp_path, RUNS[0])
    record = store.read(path)
    table = dkp.datasets.load("diabetes", split=0)
    centre, scale = table.y.mean(), table.y.std(ddof=1)
    density = stats.norm.logpdf(table.y_test, centre, scale)
    inside = np.abs(table.y_test - centre) <= stats.norm.ppf(0.95) * scale
    z = (table.y_test - centre) / scale
    crps = scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    expected = {
        "log_density": density.mean(),
        "log_density_se": density.std(ddof=1) / np.sqrt(len(density)),
        "rmse": np.sqrt(np.mean((table.y_test - centre) ** 2)),
        "coverage_90": inside.mean(),
    }
    # 100 draws a row: the standard error of the CRPS is below 2% of it; the seed is fixed.
    assert record["metrics"].pop("crps") == pytest.approx(crps.mean(), rel=0.1)
    assert record["metrics"] == pytest.approx(expected)
    assert (record["status"], record["dtype"], record["n_train"]) == (
        "finished",
        "float64",
        len(table.y),
    )
    assert {"python", "jax", "numpyro", "dkp", "platform"} <= record["versions"].keys()
    assert "1 runs, of which 0" in (printed := capsys.readouterr().out)
    assert printed.count("smoke diabetes split 0 mean float64: log density") == 1

    monkeypatch.setattr(runner.sys, "executable", "false")  # a worker would fail, so none may start
    assert runner.run_all(RUNS, tmp_path) == 0
    assert store.is_finished(path)
    assert runner.run_all(RUNS, tmp_path, again=True) == 1
    assert not store.is_finished(path)


def test_a_failed_run_keeps_its_traceback_and_is_tried_again(tmp_path, capsys):
    wrong = dataclasses.replace(RUNS[0], method="none")
    failed_before = store.path_of(tmp_path, RUNS[0])
    store.write(failed_before, store.failure(RUNS[0], "Traceback", 1.0))
    assert runner.run_all([wrong, *RUNS], tmp_path, workers=2) == 1
    assert store.is_finished(failed_before)
    record = store.read(store.path_of(tmp_path, wrong))
    assert record["status"] == "failed"
    assert "Traceback" in record["error"]
    assert "Got 'none'" in record["error"]
    assert "failed: ValueError: Expected method" in capsys.readouterr().out


def test_a_run_past_its_time_limit_is_stopped_and_counts_as_failed(tmp_path):
    assert runner.run_all(RUNS, tmp_path, time_limit=1e-3) == 1
    assert "time limit of 0.001 s" in store.read(store.path_of(tmp_path, RUNS[0]))["error"]


def test_a_worker_that_dies_silently_counts_as_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.sys, "executable", "false")
    assert runner.run_all(RUNS, tmp_path) == 1
    assert "Exit status 1" in store.read(store.path_of(tmp_path, RUNS[0]))["error"]


def test_an_interrupt_stops_the_workers_and_leaves_no_record(tmp_path, monkeypatch):
    store.versions()  # starts a process of its own, once
    started, popen = [], subprocess.Popen

    def remember(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.subprocess, "Popen", remember)
    monkeypatch.setattr(runner.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run_all([*RUNS, dataclasses.replace(RUNS[0], seed=1)], tmp_path, workers=2)
    assert [process.returncode for process in started] == [-9, -9]
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cores": 0}, {"time_limit": 0.0}])
def test_wrong_options_are_errors(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} .* Got"):
        runner.run_all(RUNS, tmp_path, **wrong)


@pytest.mark.parametrize(("dtype", "wide"), [("float64", "True"), ("float32", "False")])
def test_a_worker_has_one_thread_and_the_width_of_its_dtype(dtype, wide, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    environment = runner.worker_environment(dtype)
    assert environment["JAX_ENABLE_X64"] == wide
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["XLA_FLAGS"].startswith(
        "--xla_dump_to=somewhere --xla_cpu_multi_thread_eigen=false"
    )


def test_a_worker_with_several_cores_has_as_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_cores", lambda: [2, 3, 5])
    assert runner._places(3, 1) == [[2], [3], [5]] and runner._places(2, 2) == [[2, 3], [5, 2]]
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    environment = runner.worker_environment("float64", 2)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "2"
    assert environment["XLA_FLAGS"] == "--xla_dump_to=somewhere"


def test_a_run_stays_on_its_cores(tmp_path, monkeypatch):
    pinned = []
    monkeypatch.setattr(
        runner.os, "sched_setaffinity", lambda _, cores: pinned.append(cores), raising=False
    )
    runner.run_one(RUNS, tmp_path, [0, 1])
    assert pinned == [[0, 1]] and store.is_finished(store.path_of(tmp_path, RUNS[0]))


def test_splits_together_share_a_worker(tmp_path, monkeypatch):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        runner.subprocess, "Popen", lambda *a, **k: started.append(a) or popen(*a, **k)
    )
    runs = config.plan("smoke", methods="mean", splits="0-1")
    assert runner.run_all(runs, tmp_path, together=True) == 0
    workers = [command for (command,) in started if "run-one" in command]
    assert len(workers) == 1 and all(
        store.is_finished(store.path_of(tmp_path, run)) for run in runs
    )
    assert store.read(store.path_of(tmp_path, runs[1]))["split"] == 1


def test_splits_together_that_fail_all_say_why(tmp_path):
    runs = [
        dataclasses.replace(run, method="none")
        for run in config.plan("smoke", methods="mean", splits="0-1")
    ]
    assert runner.run_all(runs, tmp_path, together=True) == 2
    assert all("Got 'none'" in store.read(store.path_of(tmp_path, run))["error"] for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dwp-ab", "dgp"])
def test_splits_fitted_together_are_those_fitted_one_by_one(method):
    settings = "n_inducing=5,steps=4,depth=2,prediction_samples=5"
    runs = config.plan("smoke", methods=method, splits="0-1", settings=settings)
    with relaxed():
        together, alone = evaluate.evaluate_together(runs), evaluate.evaluate(runs[1])
    assert [r["split"] for r in together] == [0, 1]
    assert together[1]["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
    assert {"log_density", "elbo"} <= alone["metrics"].keys()


def test_only_splits_go_together():
    with pytest.raises(ValueError, match="Expected runs that differ in their split alone"):
        evaluate.evaluate_together([RUNS[0], dataclasses.replace(RUNS[0], seed=1)])


def test_a_learning_curve_is_the_means_of_parts_of_a_trace():
    np.testing.assert_allclose(evaluate.curve(np.arange(80.0)), np.arange(40) * 2 + 0.5)
    assert evaluate.curve(np.array([1.0, np.nan, np.inf])) == [1.0, None, None]
    assert evaluate.curve(np.zeros(0)) == [None]
