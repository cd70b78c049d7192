"""Guides by name, and which one a bottleneck gets."""

from collections.abc import Sequence

from dkp.bottlenecks.base import Bottleneck
from dkp.guides.base import BottleneckGuide
from dkp.guides.features import FeatureGuide
from dkp.guides.inverse_wishart import InverseWishartGuide
from dkp.guides.wishart import WishartGuide

__all__ = ["GUIDES", "GuideChoice", "choose_guides"]

GuideChoice = str | BottleneckGuide

GUIDES: dict[str, BottleneckGuide] = {
    "ab": WishartGuide(rows="triangular", columns=True),
    "a": WishartGuide(rows="triangular"),
    "b": WishartGuide(columns=True),
    "standard": WishartGuide(),
    "features": FeatureGuide(),
    "inverse-wishart": InverseWishartGuide(),
}
"""By name; "auto" is the first that fits a bottleneck."""


def choose_guides(
    bottlenecks: Sequence[Bottleneck], guide: GuideChoice | Sequence[GuideChoice] = "auto"
) -> tuple[BottleneckGuide, ...]:
    """One guide a bottleneck.

    Args:
        bottlenecks: of the model.
        guide: a name of ``GUIDES``, or a guide, for all bottlenecks that it fits, while the others
            get the first that fits ("auto"); or one of these for each bottleneck.

    Raises:
        ValueError: when a name is not known, a guide fits none of the bottlenecks, or not the one
            that it is for.

    Examples:
        >>> from dkp import InverseWishart, Wishart, guides
        >>> chosen = guides.choose_guides([Wishart(2), InverseWishart(5.0)])
        >>> print([guide.name for guide in chosen])
        ['ab', 'inverse-wishart']
    """
    if isinstance(guide, (str, BottleneckGuide)):
        found = _named(guide)
        if (
            found is not None
            and bottlenecks
            and not any(found.fits(layer) for layer in bottlenecks)
        ):
            raise ValueError(_unfit(found, bottlenecks[0]))
        return tuple(
            _one(layer, "auto" if found is None or not found.fits(layer) else found)
            for layer in bottlenecks
        )
    if len(guide) != len(bottlenecks):
        raise ValueError(
            f"Expected one guide for each of {len(bottlenecks)} bottlenecks. Got {len(guide)}."
        )
    return tuple(_one(layer, choice) for layer, choice in zip(bottlenecks, guide, strict=True))


def _one(layer: Bottleneck, choice: GuideChoice) -> BottleneckGuide:
    guide = _named(choice)
    if guide is None:
        guide = next((g for g in GUIDES.values() if g.fits(layer)), None)
        if guide is None:
            raise ValueError(f"Expected a bottleneck with a variational guide. Got {layer!r}.")
    if not guide.fits(layer):
        raise ValueError(_unfit(guide, layer))
    return guide


def _named(choice: GuideChoice) -> BottleneckGuide | None:
    if isinstance(choice, BottleneckGuide):
        return choice
    if choice != "auto" and choice not in GUIDES:
        raise ValueError(
            f"Expected guide to be one of auto, {', '.join(GUIDES)}, or a guide. Got {choice!r}."
        )
    return GUIDES.get(choice)


def _unfit(guide: BottleneckGuide, layer: Bottleneck) -> str:
    fitting = [name for name, other in GUIDES.items() if other.fits(layer)]
    return (
        f"Expected a guide for {layer!r}, such as {', '.join(fitting)}. "
        f"Got {guide.name!r}, which does not fit it."
    )
