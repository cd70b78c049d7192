"""Runs that were killed end as if nothing had happened, to the last bit."""

import os
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp._core import archive
from dkp.data.batches import Batches
from dkp.inference.checkpoint import Checkpoint
from dkp.inference.minimise import Saved, minimise, minimise_many
from tests.support import relaxed, relaxed_optimizer

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
ROWS = jnp.asarray(RNG.normal(size=(20, 3)))
OPTIMIZER = relaxed_optimizer(optax.adam(0.05))


class Killed(BaseException):
    """What nothing catches."""


def loss(parameters, key, batch):
    centre = parameters["a"] + 0.1 * jax.random.normal(key, (3,))
    return jnp.mean((batch[0] - centre[None]) ** 2), {"jitter": jnp.sum(parameters["a"] ** 2)}


def run(checkpoint=None, patience=None, steps=60):
    saved = None if checkpoint is None else Saved(checkpoint, "fit")
    batches = Batches(20, 6, 1)
    return minimise(
        loss,
        {"a": jnp.ones(3)},
        OPTIMIZER,
        key=KEY,
        steps=steps,
        data=(ROWS,),
        batches=batches,
        chunk=7,
        patience=patience,
        saved=saved,
    )


def same(a, b):
    """Everything but the seconds."""
    jax.tree.map(np.testing.assert_array_equal, a.parameters, b.parameters)
    np.testing.assert_array_equal(a.trace, b.trace)
    assert (a.skipped, a.jitter, a.stopped) == (b.skipped, b.jitter, b.stopped)


def killed_at(write, monkeypatch, path, attempt):
    """Run `attempt` until the file of that number has been written."""
    count, real = iter(range(1, 1000)), archive.write

    def stop(*arguments):
        real(*arguments)
        if next(count) == write:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(archive, "write", stop)
        with pytest.raises(Killed):
            attempt()
    assert path.exists()


@pytest.mark.parametrize("patience", [None, 2])
def test_a_killed_loop_goes_on_and_ends_the_same(patience, tmp_path, monkeypatch):
    whole = run(patience=patience)
    for write in (1, 2, 4):
        path = tmp_path / f"{write}.checkpoint"
        killed_at(
            write,
            monkeypatch,
            path,
            lambda path=path: run(Checkpoint(path, 1e-9, "call"), patience),
        )
        same(run(Checkpoint(path, 1e9, "call"), patience), whole)
        # and what is finished returns at once
        same(run(Checkpoint(path, 1e9, "call"), patience), whole)


def test_several_loops_side_by_side(tmp_path, monkeypatch):
    def together(checkpoint=None):
        return minimise_many(
            loss,
            [{"a": jnp.ones(3)}, {"a": jnp.zeros(3)}],
            OPTIMIZER,
            keys=list(jax.random.split(KEY)),
            steps=30,
            data=[(ROWS,), (2 * ROWS,)],
            chunk=7,
            saved=None if checkpoint is None else Saved(checkpoint, "fit"),
        )

    path = tmp_path / "x.checkpoint"
    killed_at(2, monkeypatch, path, lambda: together(Checkpoint(path, 1e-9, "call")))
    for a, b in zip(together(Checkpoint(path, 1e9, "call")), together(), strict=True):
        same(a, b)


def test_another_stage_starts_anew(tmp_path):
    path = tmp_path / "x.checkpoint"
    minimise(loss, {"a": jnp.ones(3)}, OPTIMIZER, key=KEY, steps=7, data=(ROWS,), chunk=7,
             saved=Saved(Checkpoint(path, 1e-9, "call"), "start"))  # fmt: skip
    same(run(Checkpoint(path, 1e9, "call")), run())


def test_sigterm_saves_and_stops(tmp_path):
    path = tmp_path / "x.checkpoint"
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoint(path, 1e9, "call") as checkpoint:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as stopped:
            run(checkpoint)
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert Checkpoint(path, 1e9, "call").found("fit")["done"] == 7
    same(run(Checkpoint(path, 1e9, "call")), run())


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[::-1]]
)
def test_a_damaged_file_is_found_and_the_one_before_it_used(damage, tmp_path, monkeypatch):
    path = tmp_path / "x.checkpoint"
    killed_at(4, monkeypatch, path, lambda: run(Checkpoint(path, 1e-9, "call")))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match="damaged and not used"):
        checkpoint = Checkpoint(path, 1e9, "call")
    assert checkpoint.found("fit")["done"] == 3 * 7
    same(run(checkpoint), run())


def test_two_damaged_files_cost_the_run_so_far(tmp_path, monkeypatch):
    path = tmp_path / "x.checkpoint"
    killed_at(4, monkeypatch, path, lambda: run(Checkpoint(path, 1e-9, "call")))
    for file in (path, path.with_name("x.checkpoint.previous")):
        file.write_bytes(b"nothing")
    with pytest.warns(RuntimeWarning, match="damaged and not used"):
        checkpoint = Checkpoint(path, 1e9, "call")
    same(run(checkpoint), run())


def test_a_kill_between_two_renames(tmp_path, monkeypatch):
    path = tmp_path / "x.checkpoint"
    killed_at(3, monkeypatch, path, lambda: run(Checkpoint(path, 1e-9, "call")))
    path.unlink()
    same(run(Checkpoint(path, 1e9, "call")), run())


def test_a_full_disk_costs_the_file_and_not_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "write", full)
    with pytest.warns(RuntimeWarning, match=r"could not be written \(.*No space left"):
        same(run(Checkpoint(tmp_path / "x", 1e-9, "call")), run())


def test_a_checkpoint_of_another_call_is_refused(tmp_path):
    run(Checkpoint(tmp_path / "x", 1e9, "call"))
    with pytest.raises(ValueError, match="to be of this call. Got one of another model"):
        Checkpoint(tmp_path / "x", 1e9, "another call")
    with pytest.raises(ValueError, match="Expected every"):
        Checkpoint(tmp_path / "y", 0.0, "call")


@pytest.mark.slow
@pytest.mark.parametrize("write", [2, 5])
def test_a_killed_fit_goes_on_in_either_stage(write, tmp_path, monkeypatch):
    """Files 1 to 4 are of the first stage (three chunks and its end), the others of the second."""
    x = RNG.normal(size=(12, 2))
    data = dkp.Dataset.from_arrays(x, np.sin(x[:, 0]))
    layers = [kernels.SquaredExponential(), dkp.InverseWishart(), kernels.ReLU()]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian())
    path = tmp_path / "fit.checkpoint"

    def fit(**options):
        with relaxed():
            return dkp.fit_vi(
                model, data, key=KEY, n_inducing=4, steps=30, start_steps=30, chunk=10,
                progress=False, batch_size=6, **options,
            )  # fmt: skip

    killed_at(write, monkeypatch, path, lambda: fit(checkpoint=path, every=1e-9))
    resumed, whole = fit(checkpoint=path), fit()
    jax.tree.map(np.testing.assert_array_equal, resumed.parameters, whole.parameters)
    np.testing.assert_array_equal(resumed.elbo_trace, whole.elbo_trace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fit(checkpoint=path)
    jax.tree.map(np.testing.assert_array_equal, again.parameters, whole.parameters)
    with pytest.raises(ValueError, match="to be of this call"):
        dkp.fit_vi(model, data, key=KEY, n_inducing=3, checkpoint=path)


@pytest.mark.slow
@pytest.mark.parametrize("write", [3, 6])
def test_killed_chains_go_on_in_warm_up_and_after_it(write, tmp_path, monkeypatch):
    """Chunks of 25: windows of warm-up, whose metric is learned, and then draws of which every
    second is kept."""
    x = RNG.normal(size=(4, 1))
    data = dkp.Dataset.from_arrays(x, np.sin(x[:, 0]))
    layers = [
        kernels.SquaredExponential(),
        dkp.InverseWishart(delta=5.0),
        kernels.SquaredExponential(),
    ]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.3))
    path = tmp_path / "chains.checkpoint"

    def sample(**options):
        with relaxed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dkp.sample_hmc(
                model,
                data,
                key=KEY,
                chains=2,
                warmup=100,
                draws=50,
                thin=2,
                progress=False,
                **options,
            )

    killed_at(write, monkeypatch, path, lambda: sample(checkpoint=path, every=1e-9))
    resumed, whole, again = sample(checkpoint=path), sample(), sample(checkpoint=path)
    for found in (resumed, again):
        np.testing.assert_array_equal(found.z, whole.z)
        assert found.divergences == whole.divergences and found.stats.keys() == whole.stats.keys()
        for name, values in whole.stats.items():
            np.testing.assert_array_equal(found.stats[name], values)


@pytest.mark.slow
@pytest.mark.parametrize("move", ["hmc", "pcn"])
def test_a_killed_evidence_goes_on_in_its_pilot_and_in_a_run(move, tmp_path, monkeypatch):
    """A file for every temperature, of the pilot (some more than three) and of both runs."""
    x = np.random.default_rng(1).normal(size=(8, 1))
    data = dkp.Dataset.from_arrays(x, np.sin(3 * x[:, 0]))
    layers = [
        kernels.SquaredExponential(1.0, 1.0),
        dkp.InverseWishart(delta=5.0),
        kernels.SquaredExponential(1.0, 1.0),
    ]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.02))

    def evidence(**options):
        with relaxed():
            return dkp.log_evidence(
                model, data, key=KEY, particles=64, runs=2, move=move, progress=False, **options
            )

    whole = evidence()
    stages = len(whole.temperatures) - 1
    assert stages > 2
    for write in (2, stages + 1, 2 * stages + 1, 3 * stages):
        path = tmp_path / f"{write}.checkpoint"
        killed_at(write, monkeypatch, path, lambda path=path: evidence(checkpoint=path, every=1e-9))
        for found in (evidence(checkpoint=path), evidence(checkpoint=path)):
            np.testing.assert_array_equal(found.posterior.z, whole.posterior.z)
            for name in ("temperatures", "runs", "within"):
                np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
            for name in ("log_evidence", "standard_error", "acceptance", "correlation"):
                assert getattr(found, name) == getattr(whole, name)
    with pytest.raises(ValueError, match="to be of this call"):
        dkp.log_evidence(model, data, key=KEY, particles=128, runs=2, move=move, checkpoint=path)


@pytest.mark.slow
def test_widths_have_a_file_each(tmp_path):
    x = RNG.normal(size=(3, 1))
    data = dkp.Dataset.from_arrays(x, np.sin(x[:, 0]))
    layers = [
        kernels.SquaredExponential(1.0, 1.0),
        dkp.Wishart(width=2),
        kernels.SquaredExponential(1.0, 1.0),
    ]
    model = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.1))
    path = tmp_path / "widths"

    def compare(widths, **options):
        with relaxed():
            return dkp.compare_widths(
                model, data, widths=widths, key=KEY, particles=64, runs=2, progress=False, **options
            )

    compare([2], checkpoint=path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["widths.2"]
    both = compare([1, 2], checkpoint=path)
    np.testing.assert_array_equal(both.log_evidence, compare([1, 2]).log_evidence)
    assert {"widths.1", "widths.2"} <= {file.name for file in tmp_path.iterdir()}
