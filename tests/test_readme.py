import re

import jax
import pytest

from tests.support import ROOT, relaxed

README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
REGRESSION, NETWORKS, CHAINS, DEEP_WISHART, CLASSIFIER, THEORY = BLOCKS  # each has its test below


def run(block):
    names: dict = {}
    with relaxed():
        exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(capsys):
    names = run(REGRESSION)
    assert "test log density" in capsys.readouterr().out
    assert names["posterior"].stopped == "finished"
    # A fit that learned nothing predicts the training mean with the spread of the targets.
    baseline = jax.scipy.stats.norm.logpdf(
        names["table"].y_test, names["table"].y.mean(), names["table"].y.std()
    ).mean()
    assert names["prediction"].log_density(names["table"].y_test).mean() > baseline + 0.1


@pytest.mark.slow
def test_the_networks_of_the_readme_read_digits(capsys):
    run(NETWORKS)
    accuracies = re.findall(r"accuracy ([\d.]+)", capsys.readouterr().out)
    assert len(accuracies) == 2 and all(float(a) > 0.9 for a in accuracies)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ESS|R-hat:RuntimeWarning")
def test_the_chains_of_the_readme_mix_and_widths_are_compared(capsys):
    names = run(CHAINS)
    assert "ESS bulk" in capsys.readouterr().out
    assert names["posterior"].summary()["r_hat"] < 1.1 and names["posterior"].divergences == 0
    assert names["idata"].posterior.sizes["chain"] == 2
    assert abs(names["comparison"].probability.sum() - 1) < 1e-12


@pytest.mark.slow
def test_the_deep_wishart_process_of_the_readme_learns(capsys):
    names = run(DEEP_WISHART)
    summary = names["posterior"].summary()
    assert "'guides': ['ab', 'ab']" in capsys.readouterr().out
    # that of the mean alone is -1.42
    assert summary["skipped"] == 0 and summary["elbo_per_point"] > -1.35


@pytest.mark.slow
def test_the_classifier_of_the_readme_learns_and_is_saved(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(CLASSIFIER)
    assert float(re.findall(r"accuracy ([\d.]+)", capsys.readouterr().out)[0]) > 0.9
    assert type(names["dkp"].load("iris.dkp")) is names["dkp"].VariationalPosterior


def test_the_theory_of_the_readme_agrees_with_its_leading_order(capsys):
    names = run(THEORY)
    assert "exact posterior mean" in capsys.readouterr().out
    leading = names["deep_linear"].gram_moments_leading_order(names["k0"], [5, 8])[1]
    assert abs(leading[0, 0, 0, 0] / names["covariance"][0, 0, 0, 0] - 1) < 0.3  # O(1 / width)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_of_the_readme_lead_somewhere(path):
    assert (ROOT / path).exists()
