"""Tables are put where pages ask for them, and nowhere else."""

import pytest

from benchmarks import pages, store
from benchmarks.__main__ import RESULTS, report
from benchmarks.config import SUITES
from tests.support import ROOT

PAGE = "# Title\n<!-- {0}:begin -->\nold\n<!-- {0}:end -->\nrest ± \n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(PAGE.format("summary"), encoding="utf-8")
    for name in ("a", "b"):
        page = tmp_path / "docs" / "results" / f"{name}.md"
        page.write_text(PAGE.format(name), encoding="utf-8")
    return tmp_path


def test_text_between_markers_is_replaced_again_and_again(root):
    page = root / "README.md"
    for text in ("first", "second ±"):
        pages.write_between_markers(page, text, "summary")
    expected = "# Title\n<!-- summary:begin -->\nsecond ±\n<!-- summary:end -->\nrest ± \n"
    assert page.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    "text", ["", "<!-- results:end --><!-- results:begin -->", "<!-- results:begin -->"]
)
def test_a_page_without_markers_is_an_error_and_stays(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="results:begin"):
        pages.write_between_markers(path, "text", "results")
    assert path.read_text() == text


def test_every_section_goes_to_its_page_and_others_stay(root):
    pages.write_pages(root, {"summary": "few", "b": "new"})
    found = {page.stem: page.read_text(encoding="utf-8") for page in pages.pages(root)}
    assert "few" in found["README"] and "new" in found["b"]
    assert found["a"] == PAGE.format("a")


def test_a_section_without_a_page_is_an_error_and_nothing_is_written(root):
    with pytest.raises(ValueError, match="Got none for lost: write them"):
        pages.write_pages(root, {"a": "new", "lost": "text"})
    assert (root / "docs/results/a.md").read_text(encoding="utf-8") == PAGE.format("a")


def test_every_marker_of_the_documentation_is_of_a_table():
    known = {*SUITES, *pages.further_sections(RESULTS)}
    found = [n for p in pages.pages(ROOT) for n in pages.MARKERS.findall(p.read_text("utf-8"))]
    assert len(found) == len(set(found)) and set(found) <= known


def test_the_pages_say_what_the_records_say(tmp_path):
    """Writing them again changes nothing."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    for page in pages.pages(ROOT):
        (tmp_path / page.relative_to(ROOT)).write_bytes(page.read_bytes())
    report(write=True, root=tmp_path)
    for page in pages.pages(ROOT):
        assert (tmp_path / page.relative_to(ROOT)).read_bytes() == page.read_bytes(), page.name


def test_the_command_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="Expected at least one finished run"):
        report(out=tmp_path)
    assert not list(store.records(tmp_path))
