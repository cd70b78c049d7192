"""The matrix generalised inverse Gaussian law against SciPy, importance sampling and special
cases."""

import numpy as np
import pytest
from scipy import stats

from dkp.theory.matrix_gig import MatrixGIG, hidden_gram_posterior

RNG = np.random.default_rng(0)
A = np.array([[2.0, 0.4, 0.1], [0.4, 1.5, -0.3], [0.1, -0.3, 1.0]])
B = np.array([[1.0, -0.2, 0.3], [-0.2, 0.8, 0.1], [0.3, 0.1, 1.2]])


def test_of_size_one_it_is_scipys():
    law = MatrixGIG(1.7, np.array([[2.0]]), np.array([[0.9]]))
    scipy = stats.geninvgauss(1.7, np.sqrt(1.8), scale=np.sqrt(0.45))
    assert law.log_density(np.array([[1.3]])) == pytest.approx(scipy.logpdf(1.3))
    assert law.mean().mean.item() == pytest.approx(scipy.mean())
    draws = law.sample(0, 4000)[:, 0, 0]
    assert stats.kstest(draws, scipy.cdf).pvalue > 1e-4


def test_means_are_those_of_importance_sampling():
    """From Wishart draws near its mode; |z| < 4.5 in each entry, with both errors."""
    law, rng = MatrixGIG(2.5, A, B), np.random.default_rng(1)
    found = law.mean(seed=0, n=20_000)
    proposal = stats.wishart(8, found.mean / 8)
    draws = proposal.rvs(60_000, random_state=rng)
    sign, log_det = np.linalg.slogdet(draws)
    target = (2.5 - 2) * log_det - (
        np.einsum("ij,nji->n", A, draws) + np.einsum("ij,nji->n", B, np.linalg.inv(draws))
    ) / 2
    log_weight = target - proposal.logpdf(draws.transpose(1, 2, 0))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = np.einsum("n,nij->ij", weight, draws)
    error = np.sqrt(np.einsum("n,nij->ij", weight**2, (draws - mean) ** 2))
    assert 1 / np.sum(weight**2) > 2000
    assert np.abs((mean - found.mean) / np.hypot(error, found.standard_error)).max() < 4.5


def test_log_densities_are_those_of_the_formula():
    law = MatrixGIG(2.5, A, B)
    x, y = A @ A / 3, B + np.eye(3)

    def formula(m):
        return (2.5 - 2) * np.linalg.slogdet(m)[1] - np.trace(A @ m + B @ np.linalg.inv(m)) / 2

    assert law.log_density(x) - law.log_density(y) == pytest.approx(formula(x) - formula(y))


def test_without_b_it_is_wishart():
    """A tiny B: E X = 2 lambda A^-1, since the density is |X|^(lambda - (P + 1) / 2) exp(-tr(A X) /
    2)."""
    found = MatrixGIG(4.0, A, 1e-10 * np.eye(3)).mean(seed=0, n=20_000)
    assert np.abs((found.mean - 8 * np.linalg.inv(A)) / found.standard_error).max() < 4.5


def test_inverses_have_the_law_with_a_and_b_exchanged():
    straight, turned = (
        MatrixGIG(1.5, A, B).sample(0, 20_000),
        MatrixGIG(-1.5, B, A).sample(1, 20_000),
    )
    inverse = np.linalg.inv(turned)
    for statistic in (
        lambda m: m[:, 0, 0],
        lambda m: m[:, 0, 1],
        lambda m: np.linalg.slogdet(m)[1],
    ):
        a, b = statistic(straight), statistic(inverse)
        errors = [
            np.std([p.mean() for p in np.array_split(v, 20)], ddof=1) / np.sqrt(20) for v in (a, b)
        ]
        assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(*errors)


def test_the_posterior_of_a_hidden_layer_by_importance_sampling_of_weights():
    """K_1 from the prior, weighted by the likelihood of outputs without noise given it."""
    k0, target, n1, n2 = A / 2, B, 6, 2
    draws = stats.wishart(n1, k0 / n1).rvs(200_000, random_state=np.random.default_rng(2))
    _, log_det = np.linalg.slogdet(draws)
    log_weight = -n2 / 2 * (log_det + np.einsum("ij,nji->n", target, np.linalg.inv(draws)))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = np.einsum("n,nij->ij", weight, draws)
    error = np.sqrt(np.einsum("n,nij->ij", weight**2, (draws - mean) ** 2))
    found = hidden_gram_posterior(k0, target, n1, n2).mean(seed=0, n=10_000)
    assert np.abs((mean - found.mean) / np.hypot(error, found.standard_error)).max() < 4.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MatrixGIG(1.0, np.diag([1.0, 0.0]), np.eye(2)), "positive definite"),
        (lambda: MatrixGIG(1.0, np.eye(2), np.eye(3)), "one shape"),
        (lambda: MatrixGIG(np.nan, np.eye(2), np.eye(2)), "order"),
        (
            lambda: MatrixGIG(1.0, np.eye(2), np.eye(2)).log_density(np.zeros((2, 2))),
            "positive definite",
        ),
        (lambda: MatrixGIG(1.0, np.eye(2), np.eye(2)).sample(0, 0), "n"),
        (lambda: hidden_gram_posterior(A, B, 2, 1), "at least 3"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
