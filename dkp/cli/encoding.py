"""Feature columns of a table as numbers.

What was seen in the training rows decides, and is kept with the model.

scikit-learn's transformers do the work. A file holds what they were told, not the objects: from it
the same ones are made again.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from dkp.cli.table import Columns, is_missing

__all__ = ["Encoding", "Feature"]

_MOST_CATEGORIES = 50
_ABSENT = "(missing)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """A column of numbers, or of categories.

    Attributes:
        name: of the column.
        fill: what stands for missing numbers.
        indicator: whether another feature tells where numbers are missing.
        categories: None for numbers. Each is a feature of its own; a missing cell of text is one,
            ``(missing)``, where training rows had one.
        ordered: whether a single feature counts the categories.
    """

    name: str
    fill: float = 0.0
    indicator: bool = False
    categories: tuple[str, ...] | None = None
    ordered: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """From the feature columns of a table to the features of a model; see :meth:`fit`."""

    features: tuple[Feature, ...]

    @classmethod
    def fit(cls, table: Columns, orders: Mapping[str, Sequence[str]] | None = None) -> "Encoding":
        """Learn fills and categories from training rows.

        Args:
            table: feature columns. Missing numbers get the median of their column, and an
                indicator.
            orders: categories from low to high, for columns that are to be one number.

        Raises:
            ValueError: for a column without any value, or with so many different texts that they
                name rows rather than groups of them, and for orders that do not fit.
        """
        orders = dict(orders or {})
        for name in orders:
            table.column(name, "ordinal")
        return cls(
            features=tuple(_feature(table, name, orders.get(name)) for name in table.columns)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features of the model."""
        found: list[str] = []
        for feature in self.features:
            if feature.categories is None or feature.ordered:
                found.append(feature.name)
            else:
                found += [f"{feature.name}={category}" for category in feature.categories]
            if feature.indicator:
                found.append(f"{feature.name} is missing")
        return tuple(found)

    def transform(self, table: Columns) -> np.ndarray:
        """Features of the rows of a table, (N, D).

        Texts that training rows did not have belong to none of the categories.

        Raises:
            ValueError: when a column is missing, holds text instead of numbers, or, where
                categories are ordered, a text that is none of them.
        """
        blocks = [
            _transformer(feature).transform(_cells(table, feature)) for feature in self.features
        ]
        return np.concatenate([np.asarray(block, float) for block in blocks], axis=1)

    def as_dict(self) -> dict[str, Any]:
        """For a file; :meth:`from_dict` makes it again."""
        return {"features": [dataclasses.asdict(feature) for feature in self.features]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Encoding":
        return cls(features=tuple(Feature(**feature) for feature in content["features"]))


def _feature(table: Columns, name: str, order: Sequence[str] | None) -> Feature:
    column = table.columns[name]
    missing = is_missing(column)
    if missing.all():
        raise ValueError(
            f"Expected values in column {name!r} of {table.source}. Got missing cells only: leave "
            "it out."
        )
    if order is not None:
        return _ordered(table, name, tuple(order))
    if column.dtype.kind == "f":
        imputer: Any = SimpleImputer(strategy="median").fit(column[:, None])
        fill = float(imputer.statistics_[0])
        return Feature(name=name, fill=fill, indicator=bool(missing.any()))
    encoder: Any = OneHotEncoder().fit(_with_absent(column)[:, None])
    categories = encoder.categories_[0].tolist()
    if len(categories) > _MOST_CATEGORIES:
        raise ValueError(
            f"Expected at most {_MOST_CATEGORIES} different texts in column {name!r} of "
            f"{table.source}. Got {len(categories)}, such as {categories[0]!r}: leave the column "
            "out (--ignore), or group them."
        )
    return Feature(name=name, categories=tuple(categories))


def _ordered(table: Columns, name: str, order: tuple[str, ...]) -> Feature:
    column = table.columns[name]
    if column.dtype.kind == "f":
        raise ValueError(
            f"Expected text in column {name!r} of {table.source}, to be ordered. Got numbers."
        )
    if len(set(order)) != len(order) or len(order) < 2:
        raise ValueError(
            f"Expected two or more different categories of {name!r}, from low to high. Got {order}."
        )
    cells = _cells(table, Feature(name=name, categories=order, ordered=True))[:, 0]
    missing = is_missing(cells)
    fill = float(np.median([order.index(cell) for cell in cells[~missing]]))
    return Feature(
        name=name, categories=order, ordered=True, fill=fill, indicator=bool(missing.any())
    )


def _cells(table: Columns, feature: Feature) -> np.ndarray:
    """The column of a feature, (N, 1), in the form that its transformer takes."""
    column = table.column(feature.name, "every feature")
    missing = is_missing(column)
    if feature.categories is None:
        if column.dtype.kind == "f":
            return column[:, None]
        if missing.all():
            return np.full((len(column), 1), math.nan)
        first = int(np.flatnonzero(~missing)[0])
        raise ValueError(
            f"Expected numbers in column {feature.name!r} of {table.source}, as in training. Got "
            f"text ({column[first][:40]!r}) in {table.places[first]}."
        )
    if column.dtype.kind == "f":
        column = np.asarray(
            ["" if np.isnan(value) else f"{value:g}" for value in column], dtype=object
        )
    if not feature.ordered:
        return _with_absent(column)[:, None]
    unknown = ~np.isin(column, feature.categories) & ~missing
    if unknown.any():
        first = int(np.flatnonzero(unknown)[0])
        raise ValueError(
            f"Expected {', '.join(feature.categories)} in column {feature.name!r} of "
            f"{table.source}. Got {column[first]!r} in {table.places[first]}."
        )
    return column[:, None]


def _with_absent(column: np.ndarray) -> np.ndarray:
    return np.where(column == "", _ABSENT, column).astype(object)


def _transformer(feature: Feature) -> Any:
    """scikit-learn's transformer of the column, fitted to rows that tell it nothing new."""
    if feature.categories is not None and not feature.ordered:
        categories: Any = [list(feature.categories)]
        encoder = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
        return encoder.fit([[feature.categories[0]]])
    imputer = SimpleImputer(
        strategy="constant", fill_value=feature.fill, add_indicator=feature.indicator
    )
    if feature.categories is None:
        return imputer.fit([[0.0], [math.nan]])
    order: Any = [list(feature.categories)]
    numbers = OrdinalEncoder(
        categories=order, handle_unknown="use_encoded_value", unknown_value=math.nan
    )
    return make_pipeline(numbers, imputer).fit(
        np.asarray([[feature.categories[0]], [""]], dtype=object)
    )
