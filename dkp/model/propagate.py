"""The walk of a Gram matrix through layers.

:func:`propagate` is the only place that walks through the layers. What a bottleneck means (a
NumPyro sample site, a draw from a guide, a given posterior draw) is the caller's: it passes a
function.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

from dkp.bottlenecks.base import Bottleneck
from dkp.gram.gram import Gram, Inputs
from dkp.kernels.base import Kernel
from dkp.kernels.compose import Chain
from dkp.kernels.inputs import Linear

__all__ = ["from_features", "propagate"]

BottleneckFunction = Callable[[int, Bottleneck, Gram], Gram]


def from_features(layers: Sequence[Any]) -> tuple[Kernel, Sequence[Any]]:
    """The layers before the first bottleneck as one kernel over features, and the other layers.

    It starts with x x^T / D where the layers do not say otherwise. Images become vectors in it.
    """
    before = list(itertools.takewhile(lambda layer: not isinstance(layer, Bottleneck), layers))
    start: list[Any] = [] if before and cast(Kernel, before[0]).takes_features else [Linear()]
    return cast(Kernel, Chain(*start, *before)), layers[len(before) :]


def propagate(layers: Sequence[Any], inputs: Inputs, bottleneck: BottleneckFunction) -> Gram:
    """Push features through resolved layers.

    ``bottleneck(l, layer, kernel)`` gives the Gram matrix of the l-th bottleneck (from 1).
    """
    count = 0
    first, rest = from_features(layers)
    gram = first(inputs)
    for layer in rest:
        if isinstance(layer, Bottleneck):
            count += 1
            gram = bottleneck(count, layer, gram)
        else:
            gram = layer(gram)
    return gram
