"""What is run: suites of data sets, the settings of a suite, and the identity of one run.

One model and one configuration serve all data sets of a suite. Nothing here imports JAX, so that a
worker process can choose its core and its number of threads first.
"""

import dataclasses
import hashlib
import json
from typing import Any

__all__ = [
    "CHOSEN",
    "DEEP",
    "EXACT",
    "NETWORKS",
    "SKLEARN",
    "SUITES",
    "TABLES",
    "Run",
    "Settings",
    "Suite",
    "override",
    "parse_names",
    "parse_splits",
    "plan",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a method is fitted: the same for every data set and method of a suite."""

    n_inducing: int = 100
    batch_size: int | None = None
    steps: int = 1000
    samples: int = 1
    prediction_samples: int = 100
    depth: int = 5
    start_steps: int = 500


DEEP = ("dgp", "dwp", "dwp-a", "dwp-b", "dwp-ab")
"""Deep Gaussian and deep Wishart processes."""

EXACT = ("gp", "gp-matern", "gp-rq")
"""Exact Gaussian processes: one layer."""

CHOSEN = ("gp", "gp-matern", "gp-rq", "diwp", "diwp-matern", "dwp-ab")
"""Depths and kernels among which `chosen` takes, split by split, the one with the highest bound on
the evidence."""

NETWORKS = ("fcn", "fcn-zca", "vec", "vec-zca", "gap", "gap-zca")
"""Infinitely wide networks, which have no settings."""

TABLES = ("classification", "classification-large", "counts", "robust")
"""Suites of everyday tables, by the estimators."""

SKLEARN = ("gp-classifier", "logistic", "boosting", "poisson-glm", "poisson-boosting")
"""Methods of scikit-learn, with its defaults."""

IGNORED_SETTINGS = {
    **dict.fromkeys(
        (*NETWORKS, *SKLEARN, "mean"), tuple(field.name for field in dataclasses.fields(Settings))
    ),
    **dict.fromkeys(
        EXACT, ("n_inducing", "batch_size", "steps", "samples", "depth", "start_steps")
    ),
    "nngp": ("n_inducing", "batch_size", "steps", "samples", "start_steps"),
    "diwp": ("depth",),
    "diwp-matern": ("depth",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """Data sets, with what is used when the command line names none.

    Attributes:
        datasets: names of data sets.
        splits: of each data set.
        methods: how they are fitted.
        settings: of all methods.
        deep: settings of the deep Gaussian and deep Wishart processes.
        single: settings of single methods.
        excluded: data sets and methods that do not go together.
        cores: of a run.
    """

    datasets: tuple[str, ...]
    splits: tuple[int, ...]
    methods: tuple[str, ...] = ("gp", "diwp")
    settings: Settings = Settings()
    deep: Settings = Settings()
    single: tuple[tuple[str, Settings], ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    cores: int = 1

    def settings_of(self, method: str) -> Settings:
        """The settings of a method: the same for every data set."""
        return dict(self.single).get(method, self.deep if method in DEEP else self.settings)


SUITES = {
    "smoke": Suite(
        datasets=("diabetes",), splits=(0,), settings=Settings(n_inducing=20, steps=300, samples=2)
    ),
    # Few enough points for 200 inducing points, which bring the sparse model close to the exact
    # Gaussian process.
    "uci-small": Suite(
        datasets=("uci/yacht", "uci/boston", "uci/energy", "uci/concrete", "uci/wine"),
        splits=(0, 1, 2, 3, 4),
        settings=Settings(n_inducing=200, steps=500),
        deep=Settings(steps=2000),
    ),
    # An exact Gaussian process on 40,000 points does not fit in memory, so it is not among these
    # methods.
    "uci-large": Suite(
        datasets=("uci/kin8nm", "uci/power", "uci/naval", "uci/protein"),
        splits=(0,),
        methods=("diwp",),
        settings=Settings(batch_size=500, steps=8000),
        # All rows at once where they are at most 12,000, so that the outputs are integrated out.
        deep=Settings(batch_size=12000, steps=3000, start_steps=1500),
        # A rough kernel needs more inducing points, and one bottleneck leaves time for them.
        single=(("diwp-matern", Settings(n_inducing=400, batch_size=12000, steps=150)),),
    ),
    # What a newcomer gets: the estimators as they come, beside scikit-learn's.
    "classification": Suite(
        datasets=("breast_cancer", "wine", "digits"),
        splits=(0, 1, 2, 3, 4),
        methods=("dkp-classifier", "gp-classifier", "logistic", "boosting"),
        settings=Settings(steps=1000),
    ),
    "classification-large": Suite(
        datasets=("mnist",),
        splits=(0,),
        methods=(
            "dkp-classifier-components",
            "dkp-classifier-pixels",
            "dkp-classifier-temperature",
            "logistic",
            "boosting",
        ),
        settings=Settings(n_inducing=300, batch_size=500, steps=6500),
        single=(
            ("dkp-classifier-components", Settings(n_inducing=400, batch_size=500, steps=4500)),
        ),
        cores=2,
    ),
    "counts": Suite(
        datasets=("simulated",),
        splits=(0, 1, 2, 3, 4),
        methods=("dkp-poisson", "dkp-negative-binomial", "poisson-glm", "poisson-boosting"),
        settings=Settings(steps=1000),
    ),
    "robust": Suite(
        datasets=("uci/boston",),
        splits=(0, 1, 2, 3, 4),
        methods=("dkp-gaussian", "dkp-student-t"),
        settings=Settings(steps=1000),
    ),
    # Kernels between all pairs of locations are for coarse images and fewer points, where all
    # methods run.
    "nngp": Suite(
        datasets=("digits", "mnist", "cifar10", "mnist-14x14", "cifar10-16x16"),
        splits=(0,),
        methods=NETWORKS,
        excluded=tuple(
            (dataset, method) for dataset in ("mnist", "cifar10") for method in ("gap", "gap-zca")
        ),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One fit of one method to one split of one data set."""

    suite: str
    dataset: str
    split: int
    method: str
    settings: Settings
    dtype: str = "float64"
    seed: int = 0

    @property
    def configuration(self) -> dict[str, Any]:
        """All that decides the result, other than data and method; settings that the method ignores
        stay out.
        """
        ignored = IGNORED_SETTINGS.get(self.method, ())
        settings = {
            name: v for name, v in dataclasses.asdict(self.settings).items() if name not in ignored
        }
        if settings.get("start_steps") == Settings.start_steps:
            del settings["start_steps"]  # as in records from before it was a setting
        return {"dtype": self.dtype, "seed": self.seed, **settings}

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that name the configuration."""
        text = json.dumps(self.configuration, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        return f"{self.suite} {self.dataset} split {self.split} {self.method} {self.dtype}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Run":
        fields = json.loads(text)
        return cls(**{**fields, "settings": Settings(**fields["settings"])})


def plan(
    suite: str,
    *,
    datasets: str = "",
    splits: str = "",
    methods: str = "",
    dtype: str = "float64",
    seed: int = 0,
    settings: str = "",
) -> list[Run]:
    """The runs that a command line asks for, data set by data set and split by split.

    Args:
        suite: a key of ``SUITES``.
        datasets: names separated by commas; ``energy`` may stand for ``uci/energy``. Empty: all of
            the suite.
        splits: such as ``0-4`` or ``0,2,5-7``. Empty: those of the suite.
        methods: names separated by commas. Empty: those of the suite.
        dtype: ``float64`` or ``float32``.
        seed: of the random numbers; each split folds in its own number.
        settings: changes to the suite's settings, such as ``steps=2000,batch_size=none``.

    Raises:
        ValueError: when the suite, a data set, a split or a setting is not known.
    """
    if suite not in SUITES:
        raise ValueError(f"Expected suite to be one of {', '.join(SUITES)}. Got {suite!r}.")
    chosen = SUITES[suite]
    return [
        Run(
            suite=suite,
            dataset=name,
            split=split,
            method=method,
            settings=override(chosen.settings_of(method), settings),
            dtype=dtype,
            seed=seed,
        )
        for name in _datasets_of(chosen, datasets)
        for split in parse_splits(splits) or chosen.splits
        for method in parse_names(methods) or chosen.methods
        if (name, method) not in chosen.excluded
    ]


def parse_names(text: str) -> tuple[str, ...]:
    """``"gp,diwp"`` as ``("gp", "diwp")``, without repetition."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def parse_splits(text: str) -> tuple[int, ...]:
    """``"0-2,5"`` as ``(0, 1, 2, 5)``.

    Raises:
        ValueError: when a piece is neither a number nor an ascending range.
    """
    numbers: list[int] = []
    for piece in parse_names(text):
        first, _, last = piece.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or piece.endswith("-"):
            raise ValueError(f"Expected splits such as 0-4 or 0,2,5-7. Got {text!r}.")
        found = range(int(first), int(last or first) + 1)
        if not found:
            raise ValueError(f"Expected an ascending range of splits. Got {piece!r}.")
        numbers.extend(found)
    return tuple(dict.fromkeys(numbers))


def override(settings: Settings, text: str) -> Settings:
    """`settings` with changes such as ``"steps=200,batch_size=none"``.

    Raises:
        ValueError: when a name is no setting or a value is neither a positive integer nor, for the
            batch, ``none``.
    """
    changes: dict[str, int | None] = {}
    known = [field.name for field in dataclasses.fields(Settings)]
    for piece in parse_names(text):
        name, _, value = piece.partition("=")
        if name not in known:
            raise ValueError(f"Expected settings among {', '.join(known)}. Got {piece!r}.")
        whole_batch = name == "batch_size" and value == "none"
        if not whole_batch and not (value.isdigit() and int(value) > 0):
            raise ValueError(f"Expected a positive integer, as in {name}=100. Got {piece!r}.")
        changes[name] = None if whole_batch else int(value)
    return dataclasses.replace(settings, **changes)


def _datasets_of(suite: Suite, text: str) -> tuple[str, ...]:
    short = {name.rpartition("/")[2]: name for name in suite.datasets}
    names = tuple(short.get(name, name) for name in parse_names(text)) or suite.datasets
    for name in names:
        if name not in suite.datasets:
            raise ValueError(f"Expected datasets among {', '.join(short)}. Got {name!r}.")
    return names
