"""Features: independent columns of one multivariate normal law, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dkp.distributions import FeatureNormal, kl_divergence

P, M = 3, 2
RNG = np.random.default_rng(0)
LOC, OTHER = (jnp.asarray(RNG.normal(size=(P, M))) for _ in range(2))
TRILS = [jnp.asarray(np.linalg.cholesky(a @ a.T)) for a in RNG.normal(size=(2, P, P + 2))]
LAWS = {
    "general": FeatureNormal(LOC, TRILS[0]),
    "identity": FeatureNormal(LOC),
    "other": FeatureNormal(OTHER, TRILS[1]),
}


def columns(law):
    tril = np.eye(P) if law.scale_tril is None else np.asarray(law.scale_tril)
    return [stats.multivariate_normal(np.asarray(law.loc)[:, j], tril @ tril.T) for j in range(M)]


@pytest.mark.parametrize("name", LAWS)
def test_density_is_scipys(name):
    value = RNG.normal(size=(4, P, M))
    truth = sum(law.logpdf(value[:, :, j]) for j, law in enumerate(columns(LAWS[name])))
    np.testing.assert_allclose(LAWS[name].log_prob(jnp.asarray(value)), truth, rtol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_moments_of_draws(name):
    """|z| < 4.5 over 6 means and 6 covariances: a false-alarm rate below 1e-4."""
    draws = np.asarray(LAWS[name].sample(jax.random.key(0), (20_000,)))
    for j, law in enumerate(columns(LAWS[name])):
        residual = draws[:, :, j] - law.mean
        assert np.max(np.abs(residual.mean(0) / residual.std(0) * np.sqrt(len(residual)))) < 4.5
        products = residual[:, :, None] * residual[:, None, :]
        assert (
            np.max(np.abs((products.mean(0) - law.cov) / products.std(0) * np.sqrt(len(products))))
            < 4.5
        )


@pytest.mark.parametrize(
    ("q", "p"), [("general", "identity"), ("general", "other"), ("identity", "other")]
)
def test_divergence_is_the_sum_over_columns(q, p):
    truth = 0.0
    for a, b in zip(columns(LAWS[q]), columns(LAWS[p]), strict=True):
        inverse, shift = np.linalg.inv(b.cov), a.mean - b.mean
        log_ratio = np.linalg.slogdet(b.cov)[1] - np.linalg.slogdet(a.cov)[1]
        truth += (np.trace(inverse @ a.cov) - P + log_ratio + shift @ inverse @ shift) / 2
    np.testing.assert_allclose(kl_divergence(LAWS[q], LAWS[p]), truth, rtol=1e-12)
    assert abs(float(kl_divergence(LAWS[q], LAWS[q]))) < 1e-12
