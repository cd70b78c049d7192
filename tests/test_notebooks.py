"""Every notebook is a pair, a percent script and an executed copy, that agree cell by cell; the
gate executes them."""

import jupytext
import nbformat

from tests.support import ROOT

FOLDER = ROOT / "notebooks"


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_script_has_its_notebook():
    assert {p.stem for p in FOLDER.glob("*.py")} == {p.stem for p in FOLDER.glob("*.ipynb")}


def test_script_and_notebook_agree():
    for script in FOLDER.glob("*.py"):
        executed = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
        assert cells(jupytext.read(script)) == cells(executed), (
            f"run: jupytext --sync {script.relative_to(ROOT)}"
        )


def test_notebooks_hold_results_and_no_error():
    for notebook in FOLDER.glob("*.ipynb"):
        code = [
            c
            for c in nbformat.read(notebook, as_version=4).cells
            if c.cell_type == "code" and c.source.strip()
        ]
        assert all(cell.execution_count for cell in code), (
            f"run: jupyter execute --inplace notebooks/{notebook.name}"
        )
        assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
