import re

import jax
import pytest

from tests.support import ROOT, relaxed

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    names: dict = {}
    with relaxed():
        exec(compile(blocks[0], "README.md", "exec"), names)
    assert "test log density" in capsys.readouterr().out
    assert names["posterior"].stopped == "finished"
    # A fit that learned nothing predicts the training mean with the spread of the targets.
    baseline = jax.scipy.stats.norm.logpdf(
        names["table"].y_test, names["table"].y.mean(), names["table"].y.std()
    ).mean()
    assert names["prediction"].log_density(names["table"].y_test).mean() > baseline + 0.1


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_of_the_readme_lead_somewhere(path):
    assert (ROOT / path).exists()
