"""The command line: what it saves, what it says about files that will not do, and its exit codes."""

import csv
import subprocess
import sys

import arviz as az
import jax
import numpy as np
import pytest

from dkp.cli import main
from dkp.cli.table import read_csv
from dkp.progress import Progress
from tests.support import ROOT, relaxed

GOOD = "a,b,y\n1,2,3\n4,5,6\n"
BAD = {
    "empty": ("", "empty file"),
    "blank": ("\n \n", "empty file"),
    "header_alone": ("a,b,y\n", "Got none"),
    "no_header": ("1,2,3\n4,5,6\n", "add a header line"),
    "unnamed": ("a,,y\n1,2,3\n", "column 2"),
    "duplicated": ("a,a,y\n1,2,3\n", "'a' 2 times: rename one"),
    "no_target": ("a,b,z\n1,2,3\n", "a, b, z. Got 'y'"),
    "near_target": ("a,b,yy\n1,2,3\n", "did you mean 'yy'?"),
    "no_features": ("y\n1\n2\n", "Got only 'y'"),
    "ragged": ("a,b,y\n1,2,3\n4,5\n", "3 cells in line 3"),
    "long": ("a,b,y\n1,2,3,4\n", "3 cells in line 2"),
    "missing": ("a,b,y\n1,2,3\n4,,6\n", "line 3 of {path}, column 'b'. Got a missing cell"),
    "not_available": ("a,b,y\n1,2,NaN\n", "line 2 of {path}, column 'y'. Got a missing cell"),
    "text": ("a,b,y\n1,2,3\n\n1,red,3\n", "line 4 of {path}, column 'b'. Got text ('red')"),
    "decimal_comma": ("a;b;y\n1,5;2;3\n", "column 'a'. Got text ('1,5')"),
    "infinite": ("a,b,y\n1,inf,3\n", "column 'b'. Got inf"),
    "few_rows": (GOOD, "at least 2 rows to train"),
}


def run(*arguments):
    """NumPyro and optax promote dtypes."""
    with relaxed():
        return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_file_that_will_not_do_is_one_line_and_exit_code_2(text, message, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text(text)
    assert run("fit", "--data", path, "--target", "y", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("dkp: Expected ") and error.count("\n") == 1
    assert message.format(path=path) in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--data", "nowhere.csv", "--target", "y"), "nowhere.csv: No such file"),
        (("fit", "--data", "/", "--target", "y"), "Is a directory"),
        (("demo", "--data", "digits"), "whose targets are classes"),
        (("demo", "--data", "unknown"), "Expected name to be one of 'diabetes'"),
        (("demo", "--steps", "0"), "Expected steps"),
        (("demo", "--n-inducing", "0"), "Expected n-inducing"),
        (("demo", "--test-fraction", "1.0"), "Expected test-fraction"),
        (("demo", "--seed", "-1"), "Expected seed"),
    ],
)
def test_arguments_that_will_not_do(arguments, message, capsys):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes("h\u00f6he,y\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        read_csv(tmp_path / "table.csv", "y")


def test_an_unwritable_directory_is_found_before_the_fit(tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert run("demo", "--out", tmp_path / "out") == 2
    assert "File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "a,y,b\n1,2,3\n4,5,6\n",
        "a;y;b\r\n1;2;3\r\n\r\n4;5;6\r\n",
        "\ufeffa\ty\tb\n1\t2\t3\n4\t5\t6\n",
        '"a", "y", b\n1, 2,3.0\n4,5e0, 6',
    ],
)
def test_numbers_are_read_whatever_separates_them(text, tmp_path):
    (tmp_path / "table.csv").write_text(text, encoding="utf-8", newline="")
    table = read_csv(tmp_path / "table.csv", "y")
    np.testing.assert_array_equal(table.x, [[1, 3], [4, 6]])
    np.testing.assert_array_equal(table.y, [2, 5])
    assert (table.feature_names, table.target_name) == (("a", "b"), "y")


# Fits ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Forty rows of a smooth function with little noise."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "waves.csv"
    x = rng.uniform(-2, 2, (40, 2))
    y = 100 + 10 * np.sin(x[:, 0]) + 0.1 * rng.normal(size=40)
    rows = np.column_stack([x, y])
    path.write_text("height,depth,speed\n" + "\n".join(",".join(map(repr, row)) for row in rows.tolist()))
    return path, rows


def fit(path, out, *extra):
    return run("fit", "--data", path, "--target", "speed", "--out", out, "--n-inducing", 5, *extra)


@pytest.mark.slow
def test_fit_prints_scores_and_saves_predictions_figure_and_posterior(table, tmp_path, capsys):
    path, rows = table
    assert fit(path, tmp_path, "--steps", 3, "--test-fraction", 0.25) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "float64" in lines[0] and "30 training and 10 test rows" in lines[0]
    assert [line[:4] for line in lines[2:5]] == ["deep", "exac", "mean"]
    with (tmp_path / "predictions.csv").open() as file:
        saved = list(csv.DictReader(file))
    index = [int(row["row"]) for row in saved]
    np.testing.assert_array_equal([float(row["observed"]) for row in saved], rows[index, 2])
    assert len(set(index)) == 10
    for prefix in ("", "gp_"):
        low, mean, high = ([float(row[prefix + name]) for row in saved] for name in ("q05", "mean", "q95"))
        assert np.all(np.less(low, mean)) and np.all(np.less(mean, high))
    # The function is smooth and the noise small: the Gaussian process must find it (its scale is 10).
    assert np.abs(np.subtract([float(row["gp_mean"]) for row in saved], rows[index, 2])).max() < 3
    train = np.delete(rows[:, 2], index)
    np.testing.assert_allclose(np.sort(az.from_netcdf(tmp_path / "posterior.nc")["observed_data"]["y"]), np.sort(train))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_interrupted_fit_is_used_and_saved(table, tmp_path, capsys, monkeypatch):
    """Ctrl-C after the first chunk of steps, in single precision, and too many rows for the exact Gaussian process."""

    def interrupt(*arguments, **values):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupt)
    monkeypatch.setattr("dkp.cli.experiment._LARGEST_EXACT", 29)
    assert fit(table[0], tmp_path, "--steps", 100_000, "--test-fraction", 0.25, "--float32") == 0
    said = capsys.readouterr()
    assert "float32" in said.out and "interrupted after" in said.err
    assert "no exact Gaussian process: it is for at most 29" in said.err and "exact" not in said.out
    assert az.from_netcdf(tmp_path / "posterior.nc")["posterior"].attrs["stopped"] == "interrupted"
    assert (tmp_path / "predictions.csv").exists()
    assert jax.config.jax_enable_x64


def test_an_interrupt_before_the_fit_saves_nothing(table, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **values):
        raise KeyboardInterrupt

    monkeypatch.setattr("dkp.cli.experiment.fit_vi", interrupt)
    assert fit(table[0], tmp_path) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_process_ends_with_the_exit_code_and_no_traceback():
    command = "import sys; from dkp.cli import main; sys.exit(main())"
    arguments = ["fit", "--data", "nowhere.csv", "--target", "y"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("dkp: Expected ") and "Traceback" not in done.stderr
