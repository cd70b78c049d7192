"""The optimisation loop on problems whose answer is known: it needs no model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dkp._core.progress import Progress
from dkp.data.batches import Batches
from dkp.inference import minimise as loop
from dkp.inference.minimise import minimise, minimise_many
from tests.support import relaxed_optimizer

TARGET = jnp.array([1.0, -2.0, 3.0])
DATA = (jnp.arange(10.0),)


def quadratic(parameters, key, batch):
    loss = jnp.sum((parameters["w"] - TARGET) ** 2)
    return loss, {"jitter": jnp.asarray(1e-9)}


def mean_of_batch(parameters, key, batch):
    return jnp.mean((parameters["w"] - batch[0]) ** 2), {"jitter": jnp.zeros(())}


def noisy(parameters, key, batch):
    loss = jnp.sum((parameters["w"] - TARGET + jax.random.normal(key, (3,))) ** 2)
    return loss, {"jitter": jnp.zeros(())}


def run(loss=quadratic, w=None, optimizer=None, **options):
    options = {"key": jax.random.key(0), "steps": 60, "data": DATA, "chunk": 20} | options
    parameters = {"w": jnp.zeros(3) if w is None else w}
    return minimise(loss, parameters, optimizer or optax.sgd(0.2), **options)


def test_finds_the_minimum():
    result = run()
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=1e-6)
    assert result.trace.shape == (60,) and result.trace[0] == 14.0 and result.trace[-1] < 1e-12
    assert (result.stopped, result.skipped, result.jitter) == ("finished", 0, 1e-9)
    assert result.seconds > 0


@pytest.mark.parametrize("chunk", [1, 7, 60, 100])
def test_chunks_do_not_change_the_steps(chunk):
    np.testing.assert_allclose(
        run(noisy, chunk=chunk).trace, run(noisy, chunk=20).trace, rtol=1e-12
    )


@pytest.mark.parametrize("chunk", [7, 100])
def test_the_last_chunk_may_be_short(chunk):
    result = run(chunk=chunk, steps=23)
    assert result.trace.shape == (23,)
    np.testing.assert_allclose(result.trace, run(steps=60).trace[:23], rtol=1e-12)


def test_keys_decide_the_run():
    same, other = run(noisy), run(noisy, key=jax.random.key(1))
    np.testing.assert_array_equal(run(noisy).trace, same.trace)
    assert np.all(same.trace[1:] != other.trace[1:])
    assert len(np.unique(same.trace)) == 60  # a fresh draw in every step


def test_adam_state_is_carried_across_chunks():
    adam = relaxed_optimizer(optax.adam(0.1))
    np.testing.assert_allclose(
        run(optimizer=adam, chunk=5).trace, run(optimizer=adam, chunk=60).trace, rtol=1e-10
    )


def sick(kind):
    """NaN in the loss, or in the gradient alone, in three steps of ten."""

    def loss(parameters, key, batch):
        bad = jax.random.bernoulli(key, 0.3)
        value = jnp.sum((parameters["w"] - TARGET) ** 2)
        if kind == "loss":
            return jnp.where(bad, jnp.nan, value), {"jitter": jnp.where(bad, jnp.nan, 1e-7)}
        root = jax.lax.cond(
            bad, lambda w: jnp.sqrt(jnp.sum(0 * w)), jnp.zeros_like, parameters["w"][0]
        )
        # the derivative of the root at 0 is 0 * infinity
        return value + root, {"jitter": jnp.asarray(1e-7)}

    return loss


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_steps_that_are_not_finite_are_skipped_and_counted(kind):
    adam = relaxed_optimizer(optax.adam(0.3))
    result = run(sick(kind), optimizer=adam, steps=200, chunk=50)
    assert 30 < result.skipped < 95  # Binomial(200, 0.3) is outside with probability 1e-6
    assert np.sum(~np.isfinite(result.trace)) == (result.skipped if kind == "loss" else 0)
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=0.05)
    np.testing.assert_allclose(result.jitter, 1e-7)


def test_a_run_that_is_never_finite_returns_its_start():
    result = run(
        lambda p, key, batch: (jnp.sum(p["w"]) * jnp.nan, {"jitter": jnp.asarray(jnp.nan)}),
        w=jnp.ones(3),
    )
    np.testing.assert_array_equal(result.parameters["w"], 1.0)
    assert result.skipped == 60 and result.trace.shape == (60,)


def test_the_best_state_is_kept_when_the_run_leaves_it():
    """The learning rate explodes half-way: the parameters returned are those of before."""
    schedule = optax.piecewise_constant_schedule(0.2, {40: 50.0})
    result = run(optimizer=relaxed_optimizer(optax.sgd(schedule)), steps=60, chunk=20)
    assert result.trace[-1] > 1e3
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=1e-3)


def test_patience():
    result = run(steps=2000, chunk=20, patience=3)
    assert result.stopped == "converged" and len(result.trace) < 2000
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=1e-6)


def test_ctrl_c_returns_what_there_is(monkeypatch):
    """Somebody presses Ctrl-C while the progress bar is drawn for the second time."""
    bar, calls = Progress(2000, label="test", enabled=False), []

    def update(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(bar, "update", update)
    result = run(progress=bar, steps=2000)
    assert result.stopped == "interrupted"
    assert result.trace.shape == (40,)
    assert result.trace[-1] < result.trace[0]
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=1e-3)


def test_ctrl_c_inside_a_chunk(monkeypatch):
    """The interrupt arrives while a chunk is computed: what the chunks before it found is
    returned."""
    run_chunk, calls = loop._run, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_chunk(*args)

    monkeypatch.setattr(loop, "_run", interrupted)
    result = run(steps=2000)
    assert result.stopped == "interrupted" and result.trace.shape == (40,)
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=1e-3)


@pytest.mark.parametrize(("n", "size"), [(10, 5), (10, 3), (10, 10), (7, 1), (100, 32)])
def test_batches_visit_every_row_once_an_epoch(n, size):
    batches = Batches(n, size, seed=4)
    rows = batches.rows(0, n)
    assert rows.shape == (n, size)
    # n steps of `size` rows are `size` epochs
    epochs = rows.reshape(-1)[: n * size].reshape(size, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (size, 1)))


def test_a_step_gets_the_same_rows_whatever_the_chunk():
    batches = Batches(10, 3, seed=4)
    np.testing.assert_array_equal(batches.rows(0, 20)[13:17], batches.rows(13, 17))
    assert not np.array_equal(batches.rows(0, 10), Batches(10, 3, seed=5).rows(0, 10))


def test_minibatches_reach_the_mean_of_the_data():
    result = run(
        mean_of_batch,
        w=jnp.zeros(()),
        optimizer=relaxed_optimizer(optax.sgd(optax.exponential_decay(0.3, 10, 0.9))),
        batches=Batches(10, 5, seed=0),
        steps=400,
        chunk=100,
    )
    np.testing.assert_allclose(result.parameters["w"], 4.5, atol=0.1)


def test_float32_parameters_stay_float32():
    def loss(parameters, key, batch):
        return jnp.sum((parameters["w"] - TARGET.astype(jnp.float32)) ** 2), {
            "jitter": jnp.zeros((), jnp.float32)
        }

    result = run(loss, w=jnp.zeros(3, jnp.float32))
    assert result.parameters["w"].dtype == jnp.float32
    np.testing.assert_allclose(result.parameters["w"], TARGET, atol=1e-4)


# --- several problems side by side ----------------------------------------------------------------


def falling(parameters, key, batch):
    """Noise, NaN now and then, and the data of the problem."""
    bad = jax.random.bernoulli(key, 0.2)
    loss = jnp.mean(
        (parameters["w"] - jnp.mean(batch[0]) + 0.1 * jax.random.normal(key, (3,))) ** 2
    )
    return jnp.where(bad, jnp.nan, loss), {"jitter": jnp.max(batch[0])}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_each_of_several_problems_is_what_it_is_alone(count, batched):
    keys = list(jax.random.split(jax.random.key(7), count))
    starts = [{"w": jnp.full(3, float(i))} for i in range(count)]
    data = [(jnp.arange(10.0) * (i + 1),) for i in range(count)]
    batches = [Batches(10, 4, i) for i in range(count)] if batched else None
    settings = {"steps": 47, "chunk": 20}
    together = minimise_many(
        falling, starts, optax.sgd(0.2), keys=keys, data=data, batches=batches, **settings
    )
    assert len(together) == count
    for i, found in enumerate(together):
        own = {"batches": batches[i]} if batched else {}
        alone = minimise(
            falling, starts[i], optax.sgd(0.2), key=keys[i], data=data[i], **own, **settings
        )
        np.testing.assert_allclose(found.trace, alone.trace, rtol=1e-12)
        np.testing.assert_allclose(found.parameters["w"], alone.parameters["w"], rtol=1e-12)
        assert (found.skipped, found.jitter, found.stopped) == (
            alone.skipped,
            alone.jitter,
            alone.stopped,
        )
    assert found.skipped > 0


def test_a_run_whose_steps_were_all_skipped_has_failed():
    def nowhere(parameters, key, batch):
        return jnp.sum(parameters["a"]) * jnp.nan, {"jitter": jnp.zeros(())}

    result = loop.minimise(
        nowhere,
        {"a": jnp.ones(2)},
        optax.sgd(0.1),
        key=jax.random.key(0),
        steps=5,
        data=(jnp.ones((3, 1)),),
        chunk=2,
    )
    assert (result.stopped, result.skipped, len(result.trace)) == ("failed", 5, 5)
    np.testing.assert_array_equal(result.parameters["a"], 1.0)
