"""The README and the pages of ``docs``: their code runs as it stands, and their links lead
somewhere.

The blocks of a page run in order in one namespace, in a directory of their own. A page that is new
is found by itself."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from tests.support import ROOT, relaxed

Names = dict[str, Any]

TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
BLOCKS = {
    page: found
    for page, text in TEXTS.items()
    if (found := re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
}
FAST = ("docs/kernels.md", "docs/theory.md")  # seconds; all other pages are slow

WARNINGS = {"docs/chains_and_evidence.md": "ignore:ESS|R-hat:RuntimeWarning"}  # 300 draws
"""What a page's code may warn of."""


# --- what pages promise ---------------------------------------------------------------------------


def _regression(names: Names, printed: str) -> None:
    assert "test log density" in printed
    assert names["posterior"].stopped == "finished"
    # A fit that learned nothing predicts the training mean with the spread of the targets.
    baseline = jax.scipy.stats.norm.logpdf(
        names["table"].y_test, names["table"].y.mean(), names["table"].y.std()
    ).mean()
    assert names["prediction"].log_density(names["table"].y_test).mean() > baseline + 0.1


def _exact_process(names: Names, printed: str) -> None:
    assert "test log density" in printed
    assert names["posterior"].converged


def _networks_read_digits(names: Names, printed: str) -> None:
    accuracies = re.findall(r"accuracy ([\d.]+)", printed)
    assert len(accuracies) == 2 and all(float(a) > 0.9 for a in accuracies)


def _chains_mix_and_widths_are_compared(names: Names, printed: str) -> None:
    assert "ESS bulk" in printed
    assert names["posterior"].summary()["r_hat"] < 1.1 and names["posterior"].divergences == 0
    assert names["idata"].posterior.sizes["chain"] == 2
    assert abs(names["comparison"].probability.sum() - 1) < 1e-12


def _deep_wishart_process_learns(names: Names, printed: str) -> None:
    summary = names["posterior"].summary()
    assert "'guides': ['ab', 'ab']" in printed
    # that of the mean alone is -1.42
    assert summary["skipped"] == 0 and summary["elbo_per_point"] > -1.35


def _counts_an_hour(names: Names, printed: str) -> None:
    assert names["posterior"].summary()["skipped"] == 0
    assert names["hourly"].mean.shape == (3,) and np.all(names["hourly"].mean > 0)


def _classifier_learns_and_is_saved(names: Names, printed: str) -> None:
    assert float(re.findall(r"accuracy ([\d.]+)", printed)[0]) > 0.9
    assert type(names["dkp"].load("iris.dkp")) is names["dkp"].VariationalPosterior


def _file_predicts_the_same(names: Names, printed: str) -> None:
    assert "the same predictions: True" in printed


def _theory_agrees_with_its_leading_order(names: Names, printed: str) -> None:
    assert "exact posterior mean" in printed
    leading = names["deep_linear"].gram_moments_leading_order(names["k0"], [5, 8])[1]
    assert abs(leading[0, 0, 0, 0] / names["covariance"][0, 0, 0, 0] - 1) < 0.3  # O(1 / width)


PROMISES: dict[str, Callable[[Names, str], None]] = {
    "README.md": _regression,
    "docs/chains_and_evidence.md": _chains_mix_and_widths_are_compared,
    "docs/choosing.md": _exact_process,
    "docs/deep_wishart.md": _deep_wishart_process_learns,
    "docs/estimators.md": _classifier_learns_and_is_saved,
    "docs/files.md": _file_predicts_the_same,
    "docs/images_and_ntk.md": _networks_read_digits,
    "docs/likelihoods.md": _counts_an_hour,
    "docs/theory.md": _theory_agrees_with_its_leading_order,
}


def _pages() -> list[Any]:
    marks = {page: [] if page in FAST else [pytest.mark.slow] for page in BLOCKS}
    for page, warning in WARNINGS.items():
        marks[page].append(pytest.mark.filterwarnings(warning))
    return [pytest.param(page, marks=marks[page], id=page) for page in BLOCKS]


@pytest.mark.parametrize("page", _pages())
def test_the_python_of_a_page_runs_as_it_stands(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: Names = {}
    with relaxed():
        for block in BLOCKS[page]:
            exec(compile(block, page, "exec"), names)
    if page in PROMISES:
        PROMISES[page](names, capsys.readouterr().out)


@pytest.mark.parametrize("page", BLOCKS)
def test_the_python_of_a_page_is_python(page):
    for block in BLOCKS[page]:
        compile(block, page, "exec")


def test_promises_are_of_pages_with_code():
    assert {*PROMISES, *FAST, *WARNINGS} <= BLOCKS.keys()


# --- text -----------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 200


def _prose(text: str) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def _anchors(text: str) -> set[str]:
    """The names that its headings have in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


# Written apart from the other pages; when they are there, this exception goes.


@pytest.mark.parametrize("page", TEXTS)
def test_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(TEXTS[page])):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in _anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_every_page_is_in_an_index():
    """Of ``docs``, or of ``docs/results``."""
    for page in TEXTS:
        folder, _, name = page.rpartition("/")
        if folder and name != "README.md":
            assert f"]({name})" in TEXTS[f"{folder}/README.md"], page
