"""The claims: what they compare is what they say, and the table holds what was found.

Monte Carlo comparisons use fixed seeds and |z| < 4.5: a false-alarm rate of 7e-6 a comparison over
seeds."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.claims import linear, prior, repriorised, run
from benchmarks.claims.finding import Finding
from tests.support import relaxed

FOUND = Finding(
    claim="a claim",
    paper="a paper",
    computed="|a| number",
    number="1.0 ± 0.1",
    reproduced=False,
    values={"n": 1.0},
    deviation="not here",
)


def test_kernels_vary_as_the_closed_forms_say(monkeypatch):
    monkeypatch.setattr(prior, "DRAWS", 4000)
    found = prior.kernel_variance()
    assert found.reproduced and found.values["worst_z"] < 4.5


def test_gradient_descent_fits_and_balances_the_layers():
    x, y = linear.problem(4, 6, 3)
    features = linear.descend(x, y, (8,), decay=1e-4, step=5e-3, steps=40_000)
    np.testing.assert_allclose(features[-1], y, atol=2e-3)
    predicted = linear.deep_linear.weight_decay_grams(x @ x.T, y @ y.T, 1).grams[0]
    assert linear.relative_error(features[0] @ features[0].T, predicted) < 0.01
    assert linear.relative_error(x @ x.T, predicted) > 0.3


def test_langevin_sampling_of_the_prior():
    """With targets that say nothing, E F F^T / width is the input kernel."""
    with relaxed():
        x = linear.problem(2, 3, 1)[0]
        means, acceptance = linear.sample_weights(
            x, np.zeros((2, 1)), 30, noise=100.0, steps=20_000
        )
    assert 0.4 < acceptance < 0.8
    for mean in means:
        np.testing.assert_allclose(mean, x @ x.T / 3, rtol=0.15, atol=0.1)


@pytest.mark.parametrize("width", [3, 20])
def test_both_samplers_have_the_same_posterior(width):
    """log p(y | phi) = log p(y, w | phi) - log p(w | y, phi) for every w: the readout that is drawn
    is the one that was integrated out."""
    posterior = repriorised.target(width, 0.3)
    integrated, size, _ = repriorised.SAMPLERS["repriorised"](posterior)
    plain, total, predict = repriorised.SAMPLERS["plain"](posterior)
    assert total == size + width + 1
    phi, w = (
        jax.random.normal(jax.random.key(0), (size,)),
        jax.random.normal(jax.random.key(1), (width + 1,)),
    )
    t = posterior.network.readout_features(phi, posterior.x)
    precision = np.asarray(t.T @ t) / 0.3**2 + np.eye(width + 1)
    mean = np.linalg.solve(precision, np.asarray(t.T @ posterior.y[:, 0]) / 0.3**2)
    error = np.asarray(w) - mean
    conditional = (np.linalg.slogdet(precision / (2 * np.pi))[1] - error @ precision @ error) / 2
    # `plain` leaves out the constants of the likelihood and of the prior of w.
    n = len(posterior.x)
    constants = n * math.log(0.3 * math.sqrt(2 * math.pi)) + (width + 1) * math.log(2 * math.pi) / 2
    both = jnp.concatenate([phi, w])
    assert float(integrated(phi)) == pytest.approx(
        float(plain(both)) + constants + conditional, rel=1e-10
    )
    assert predict(None, both, posterior.x).shape == (n,)


@pytest.mark.slow
def test_a_wide_residual_network_has_the_kernels_of_the_infinite_one():
    """Within 4 standard errors of a mean over networks; and images are made coarse as they should
    be."""
    pytest.importorskip("equinox", reason="the residual network needs equinox, of the extra bench")
    from benchmarks.claims import residual
    from dkp import kernels, nngp_kernel

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    x = residual.coarse(images)
    assert x.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(
        x[0, 0, 0], (images[0, :2, :2].mean((0, 1)) / 255 - 0.47) / 0.25, rtol=1e-5
    )
    with relaxed():
        grams = []
        for seed in range(8):
            _, features = residual.evaluate(residual.ResNet(jax.random.key(seed), 128), x)
            grams.append([residual._gram(f) for f in features])
        infinite = [nngp_kernel([*layers, kernels.Flatten()], x) for layers in residual._prefixes()]
    for found, expected in zip(np.swapaxes(grams, 0, 1), infinite, strict=True):
        error = found.std(axis=0, ddof=1) / np.sqrt(8)
        # Seven degrees of freedom: |t| < 8 has a false-alarm rate of 9e-5 an entry; widths of 128
        # add about 1%.
        assert np.all(
            np.abs(found.mean(axis=0) - expected) < 8 * error + 0.02 * np.trace(expected) / 3
        )


def test_claims_are_computed_once_and_make_a_table(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(run, "CLAIMS", {"first": "stand_in.found", "second": "stand_in.found"})
    module = type("stand_in", (), {"found": staticmethod(lambda: calls.append(1) or FOUND)})
    monkeypatch.setattr(run.importlib, "import_module", lambda name: module)
    assert run.table(tmp_path) == ""
    run.run_claims(tmp_path, only=["second"])
    run.run_claims(tmp_path)
    assert len(calls) == 2
    run.run_claims(tmp_path, only=["first"], again=True)
    assert len(calls) == 3
    assert json.loads((tmp_path / "claims" / "first.json").read_text())["values"] == {"n": 1.0}
    assert capsys.readouterr().out.count("reproduced: no") == 4
    lines = run.table(tmp_path).splitlines()
    assert "| \\|a\\| number |" in lines[2]
    assert (
        lines[0].startswith("| claim | paper |")
        and lines[2].count("| 1.0 ± 0.1 | no | not here |") == 1
    )
    with pytest.raises(ValueError, match=r"Expected claims among first, second\. Got 'third'"):
        run.run_claims(tmp_path, only=["third"])


def test_every_claim_is_a_function():
    pytest.importorskip("equinox", reason="the residual network needs equinox, of the extra bench")
    for place in run.CLAIMS.values():
        module, _, function = place.rpartition(".")
        assert callable(
            getattr(run.importlib.import_module(f"benchmarks.claims.{module}"), function)
        )
