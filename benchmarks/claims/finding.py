"""What a claim comes to."""

import dataclasses
from collections.abc import Iterable
from typing import Any

__all__ = ["Finding", "listed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim and what was found.

    Attributes:
        claim: what is said.
        paper: where it is said.
        computed: what we compute.
        number: our result with its error, in words.
        reproduced: whether it bears the claim out, by a rule that stands in the code.
        values: the numbers behind it, for JSON.
        deviation: where it does not bear the claim out, or not wholly.
    """

    claim: str
    paper: str
    computed: str
    number: str
    reproduced: bool
    values: dict[str, Any]
    deviation: str = ""


def listed(values: Iterable[float]) -> str:
    """Numbers for a cell of the table."""
    return ", ".join(f"{v:.2f}" for v in values)
