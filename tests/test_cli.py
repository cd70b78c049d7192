"""The command line: tables and their encoding, what it saves, what it says about files that will
not do, exit codes."""

import csv
import subprocess
import sys

import arviz as az
import jax
import numpy as np
import pytest

from dkp._core.progress import Progress
from dkp.cli import main
from dkp.cli.encoding import Encoding
from dkp.cli.model_file import TableModel
from dkp.cli.table import read_columns
from dkp.cli.tasks import TASKS, Classification, guess_task
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
    "no_target_in_a_row": (
        "a,b,y\n1,2,1\n\n1,2,NaN\n",
        "column 'y'. Got a missing cell in line 4: leave out the row",
    ),
    "empty_column": (
        "a,b,y\n1,,3\n4,NA,6\n7,?,8\n9,-,1\n",
        "column 'b' of {path}. Got missing cells only",
    ),
    "infinite": ("a,b,y\n1,inf,3\n", "column 'b' of {path}. Got inf in line 2"),
    "names": (
        "a,y\n" + "".join(f"n{i},{i / 7}\n" for i in range(60)),
        "'n0': leave the column out (--ignore)",
    ),
    "one_class": ("a,y\n1,red\n2,red\n3,red\n4,red\n", "at least two classes. Got red alone"),
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
        (("demo", "--data", "mnist"), "which are images"),
        (
            ("demo", "--task", "counts", "--data", "breast_cancer", "--ordinal", "a"),
            "such as size=small,medium,large",
        ),
        (("demo", "--ordinal", "age=1,2"), "to be ordered. Got numbers"),
        (("demo", "--ignore", "aged"), "did you mean 'age'?"),
        (("demo", "--task", "ranking"), "Expected task to be one of"),
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
        read_columns(tmp_path / "table.csv")


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
    table = read_columns(tmp_path / "table.csv")
    np.testing.assert_array_equal(table.column("y"), [2, 5])
    features = table.without(["y"])
    assert list(features.columns) == ["a", "b"]
    np.testing.assert_array_equal(list(features.columns.values()), [[1, 4], [3, 6]])


MIXED = """size,colour,grade
1,red,low
,blue,high
3,?,mid
6,red,
"""


def columns(text, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return read_columns(path)


def test_categories_and_holes_become_numbers(tmp_path):
    """By hand: the median of 1, 3, 6 is 3; a missing colour is a colour of its own; grades are
    counted from low."""
    table = columns(MIXED, tmp_path)
    encoding = Encoding.fit(table, {"grade": ["low", "mid", "high"]})
    assert encoding.names == (
        "size",
        "size is missing",
        "colour=(missing)",
        "colour=blue",
        "colour=red",
        "grade",
        "grade is missing",
    )
    expected = [
        [1, 0, 0, 0, 1, 0, 0],
        [3, 1, 0, 1, 0, 2, 0],
        [3, 0, 1, 0, 0, 1, 0],
        [6, 0, 0, 0, 1, 1, 1],
    ]
    np.testing.assert_array_equal(encoding.transform(table), expected)
    again = Encoding.from_dict(encoding.as_dict())
    new = columns("grade,size,colour,more\nhigh,,green,1\nmid,2,,2\n", tmp_path)
    np.testing.assert_array_equal(
        again.transform(new), [[3, 1, 0, 0, 0, 2, 0], [2, 0, 1, 0, 0, 1, 0]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,colour\n1,red\n", "Expected every feature to be a column"),
        ("size,colour,grade\n1,red,low\nbig,red,low\n", "Expected numbers in column 'size'"),
        ("size,colour,grade\n1,red,lower\n", "Got 'lower' in line 2"),
    ],
)
def test_new_rows_that_do_not_fit(text, message, tmp_path):
    encoding = Encoding.fit(columns(MIXED, tmp_path), {"grade": ["low", "mid", "high"]})
    with pytest.raises(ValueError, match=message):
        encoding.transform(columns(text, tmp_path))


@pytest.mark.parametrize("order", [["low", "high"], ["low"], ["low", "low", "high"]])
def test_orders_that_do_not_fit(order, tmp_path):
    with pytest.raises(ValueError, match="'grade'"):
        Encoding.fit(columns(MIXED, tmp_path), {"grade": order})


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b", "a"], "classification"),
        ([0.0, 1.0, 1.0], "classification"),
        ([2.0, 5.0, 2.0], "classification"),
        ([1.0, 2.0, 3.0, 2.0], "classification"),
        ([0.0, 1.0, 4.0, 9.0], "counts"),
        (list(map(float, range(30))), "counts"),
        ([1950.0, 1951.0, 1990.0], "regression"),
        ([3.0, 4.0, 5.0, 8.0], "regression"),
        ([0.0, 1.0, 2.5], "regression"),
        ([-1.0, 0.0, 1.0], "regression"),
    ],
)
def test_tasks_are_guessed(values, task):
    dtype = object if isinstance(values[0], str) else float
    assert guess_task(np.asarray(values, dtype=dtype)) == task


def test_labels_keep_their_order_and_their_text():
    task = Classification.of(np.asarray([10.0, 2.0, 2.0, 1.5]))
    assert task.classes == ("1.5", "2", "10")
    np.testing.assert_array_equal(task.encode(np.asarray([2.0, 10.0])), [1, 2])
    np.testing.assert_array_equal(task.decode(np.asarray([2.0, 0.0])), ["10", "1.5"])
    with pytest.raises(ValueError, match="Got 3"):
        task.encode(np.asarray([3.0]))


@pytest.mark.parametrize("wrong", [[-1.0, 2.0], [0.5, 1.0]])
def test_what_is_no_count_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected counts"):
        TASKS["counts"].of(np.asarray(wrong))
    with pytest.raises(ValueError, match="Got text"):
        TASKS["regression"].of(np.asarray(["a", "b"], dtype=object))


def test_parquet_gives_the_same_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reads Parquet")
    from pyarrow import parquet

    cells = {
        "size": [1.0, None, 3.0, 6.0],
        "colour": ["red", "blue", None, "red"],
        "grade": ["low", "high", "mid", None],
    }
    parquet.write_table(pyarrow.table(cells), tmp_path / "table.parquet")
    found, expected = read_columns(tmp_path / "table.parquet"), columns(MIXED, tmp_path)
    assert list(found.columns) == list(expected.columns)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    parquet.write_table(pyarrow.table({"a": [[1], [2]]}), tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="Got list"):
        read_columns(tmp_path / "lists.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="to be a Parquet file"):
        read_columns(tmp_path / "damaged.parquet")


# Fits
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Forty rows of a smooth function with little noise."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "waves.csv"
    x = rng.uniform(-2, 2, (40, 2))
    y = 100 + 10 * np.sin(x[:, 0]) + 0.1 * rng.normal(size=40)
    rows = np.column_stack([x, y])
    path.write_text(
        "height,depth,speed\n" + "\n".join(",".join(map(repr, row)) for row in rows.tolist())
    )
    return path, rows


def fit(path, out, *extra):
    return run("fit", "--data", path, "--target", "speed", "--out", out, "--n-inducing", 5, *extra)


@pytest.mark.slow
def test_fit_then_predict_then_report(table, tmp_path, capsys):
    path, rows = table
    assert fit(path, tmp_path, "--steps", 3, "--test-fraction", 0.25) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "looks like regression" in lines[0]
    assert "float64" in lines[1] and "30 training and 10 test rows" in lines[1]
    assert [line[:4] for line in lines[3:6]] == ["deep", "exac", "mean"]
    with (tmp_path / "predictions.csv").open() as file:
        saved = list(csv.DictReader(file))
    index = [int(row["row"]) for row in saved]
    np.testing.assert_array_equal([float(row["observed"]) for row in saved], rows[index, 2])
    assert len(set(index)) == 10
    low, mean, high = ([float(row[name]) for row in saved] for name in ("q05", "mean", "q95"))
    assert np.all(np.less(low, mean)) and np.all(np.less(mean, high))
    # The function is smooth and the noise small: the Gaussian process must find it (its scale is
    # 10).
    assert float(lines[4].split()[3]) < 1
    train = np.delete(rows[:, 2], index)
    np.testing.assert_allclose(
        np.sort(az.from_netcdf(tmp_path / "posterior.nc")["observed_data"]["y"]), np.sort(train)
    )
    assert not list(tmp_path.glob("fit.checkpoint*"))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    assert (
        run("predict", tmp_path / "model.dkp", "--data", path, "--out", tmp_path / "new.csv") == 0
    )
    with (tmp_path / "new.csv").open() as file:
        new = list(csv.DictReader(file))
    # Predictions depend on their own row alone, up to the posterior draws, which are others here.
    assert len(new) == 40
    np.testing.assert_allclose(
        [float(new[i]["mean"]) for i in index], mean, atol=0.3 * rows[:, 2].std()
    )

    assert run("report", tmp_path / "model.dkp") == 0
    text = (tmp_path / "report.html").read_text()
    assert (
        text.count('src="data:image/png;base64,') == 3
        and 'src="http' not in text
        and "<script" not in text
    )
    for expected in (
        "10 rows were held out",
        "layers.0.weights, height",
        "alignment with the targets",
        "30 to train",
    ):
        assert expected in text
    assert (
        run("report", path) == 2
        and run("predict", tmp_path / "model.dkp", "--data", tmp_path / "nowhere.csv") == 2
    )
    assert run("report", tmp_path / "nowhere.dkp") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "target", "first"),
    [("classification", "speed", "logistic regression"), ("counts", "n", "Poisson regression")],
)
def test_classes_and_counts_from_a_table_with_holes(task, target, first, tmp_path, capsys):
    """Forty rows; the names of columns and classes hold what must be escaped in HTML."""
    rng = np.random.default_rng(0)
    x, colour = rng.normal(size=40), rng.choice(["<red>", "blue", ""], 40)
    label = np.where(x + 0.3 * rng.normal(size=40) > 0, "a&b", "c")
    counts = rng.poisson(np.exp(1 + x))
    cells = zip(x, colour, label, counts, strict=True)
    path = tmp_path / "table.csv"
    path.write_text(
        "x,colour,speed,n\n"
        + "\n".join(f"{a if a < 1.5 else ''},{b},{c},{d}" for a, b, c, d in cells)
    )
    ignore = {"speed": "n", "n": "speed"}[target]
    options = (
        "--target",
        target,
        "--ignore",
        ignore,
        "--steps",
        3,
        "--n-inducing",
        5,
        "--out",
        tmp_path / "out",
    )
    assert run("fit", "--data", path, *options) == 0
    said = capsys.readouterr().out
    assert f"looks like {task}" in said and first in said
    model = TableModel.load(tmp_path / "out" / "model.dkp")
    assert model.task == TASKS[task].of(columns(path.read_text(), tmp_path).column(target))
    assert "colour=<red>" in model.encoding.names
    assert (
        run(
            "predict", tmp_path / "out" / "model.dkp", "--data", path, "--out", tmp_path / "new.csv"
        )
        == 0
    )
    with (tmp_path / "new.csv").open() as file:
        rows = list(csv.DictReader(file))
    if task == "classification":
        np.testing.assert_allclose([float(r["p(a&b)"]) + float(r["p(c)"]) for r in rows], 1)
        assert {r["class"] for r in rows} <= {"a&b", "c"}
    assert run("report", tmp_path / "out" / "model.dkp") == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<red>" not in text and "&lt;red&gt;" in text


@pytest.mark.slow
def test_a_killed_fit_goes_on(table, tmp_path, monkeypatch):
    """The checkpoint is found again, and the model is that of a fit that was not killed."""

    class Killed(BaseException):
        pass

    def kill(*arguments, **values):
        raise Killed

    options = ("--steps", 100, "--test-fraction", 0.25)
    monkeypatch.setattr("dkp.inference.checkpoint.Checkpoint.is_due", True)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", kill)
        with pytest.raises(Killed):
            fit(table[0], tmp_path / "a", *options)
    assert (tmp_path / "a" / "fit.checkpoint").exists()
    assert (
        fit(table[0], tmp_path / "a", *options) == 0
        and fit(table[0], tmp_path / "b", *options) == 0
    )
    a, b = (TableModel.load(tmp_path / name / "model.dkp").posterior for name in "ab")
    np.testing.assert_array_equal(a.elbo_trace, b.elbo_trace)
    jax.tree.map(np.testing.assert_array_equal, a.parameters, b.parameters)


@pytest.mark.slow
def test_an_interrupted_fit_is_used_and_saved(table, tmp_path, capsys, monkeypatch):
    """Ctrl-C after the first chunk of steps, in single precision, and too many rows for the exact
    Gaussian process."""

    def interrupt(*arguments, **values):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupt)
    monkeypatch.setattr("dkp.cli.tasks._LARGEST_EXACT", 29)
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
        [sys.executable, "-c", command, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("dkp: Expected ") and "Traceback" not in done.stderr
