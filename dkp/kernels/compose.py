"""Kernels made of kernels: sums, products, multiples, compositions, repetitions.

They work on whole blocks and know nothing of their parts. A sum, product, multiple or composition
that starts from features is itself a kernel of features: ``Sum(Linear(), Linear(ard=True))``.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
from jax.core import Tracer

from dkp._core.checks import positive_int
from dkp._core.description import hyperparameter, learn, part
from dkp.gram.pairs import Features, Pairs
from dkp.kernels.base import Kernel, apply

__all__ = ["Chain", "Product", "Repeat", "Residual", "Scale", "Sum"]


class _Composite(Kernel):
    """A kernel of the sort of its parts: of features where they are."""

    is_composite: ClassVar[bool] = True


class _Variadic(_Composite):
    """Takes its parts as positional arguments."""

    kernels: tuple[Any, ...] = part()

    def __init__(self, *kernels: Any) -> None:
        _check_kernels(type(self).__name__, kernels)
        object.__setattr__(self, "kernels", kernels)
        self.__post_init__()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.__init__ = _Variadic.__init__  # or else the dataclass gets one that takes a tuple
        super().__init_subclass__(**kwargs)

    def __post_init__(self) -> None:
        _check_same_sort(type(self).__name__, self.kernels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.kernels))})"

    @property
    def takes_features(self) -> bool:
        return self.kernels[0].takes_features

    @property
    def pools(self) -> bool:
        return any(kernel.pools for kernel in self.kernels)


class Sum(_Variadic):
    """K'(G) = K_1(G) + … + K_n(G): the kernel of independent features added up.

    Args:
        *kernels: one or more kernels, all of Gram matrices or all of features.

    Raises:
        ValueError: without kernels, or with both sorts.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.Sum(kernels.Identity(), kernels.ReLU())]
        >>> print(nngp_kernel(layers, x).round(3))
        [[3.    1.534]
         [1.534 1.5  ]]
    """

    def pairs(self, block: Pairs | Features) -> Pairs:
        return functools.reduce(_sum, [apply(kernel, block) for kernel in self.kernels])


class Product(_Variadic):
    """K'(G) = K_1(G) * … * K_n(G), elementwise: the kernel of products of independent features.

    Args:
        *kernels: one or more kernels, all of Gram matrices or all of features.

    Raises:
        ValueError: without kernels, or with both sorts.

    Source: positive semi-definite by Schur's product theorem (Horn & Johnson 2013, theorem 7.5.3).

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.Product(kernels.Identity(), kernels.Identity())]
        >>> print(nngp_kernel(layers, x).round(3))
        [[4. 1.]
         [1. 1.]]
    """

    def pairs(self, block: Pairs | Features) -> Pairs:
        return functools.reduce(_product, [apply(kernel, block) for kernel in self.kernels])


class Chain(_Variadic):
    """K'(G) = K_n(… K_1(G)): kernels applied one after the other, in the order given.

    Args:
        *kernels: one or more kernels; the first may be a kernel of features.

    Raises:
        ValueError: without kernels, or with a kernel of features that is not the first.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Chain(kernels.Linear(), kernels.ReLU(), kernels.ReLU())]
        >>> print(nngp_kernel(layers, x).round(3))
        [[0.5  0.28]
         [0.28 0.25]]
    """

    def __post_init__(self) -> None:
        for kernel in self.kernels[1:]:
            if kernel.takes_features:
                raise ValueError(
                    f"Expected a kernel of features only at the start of Chain(…). Got {kernel!r} "
                    "later."
                )

    def pairs(self, block: Pairs | Features) -> Pairs:
        return _in_turn(self.kernels, block)


class Residual(_Variadic):
    """K'(G) = G + K_n(… K_1(G)): a block and a connection around it.

    Args:
        *kernels: kernels of Gram matrices, in the order in which they are applied; they must keep
            the size of images.

    Raises:
        ValueError: without kernels, or with a kernel of features.

    Source: Huang et al. 2020 (arXiv 2002.06262), equation 4, with the block's own scaling.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Residual(kernels.ReLU())], x).round(3))
        [[3.    1.534]
         [1.534 1.5  ]]
    """

    def __post_init__(self) -> None:
        for kernel in self.kernels:
            if kernel.takes_features:
                raise ValueError(
                    f"Expected Residual(…) of kernels of Gram matrices. Got {kernel!r}."
                )

    def pairs(self, block: Pairs) -> Pairs:
        inner = _in_turn(self.kernels, block)
        if inner.xy.shape != block.xy.shape:
            raise ValueError(
                "Expected Residual(…) to keep the size of the images, to which it is added: use "
                'strides of 1 and padding="SAME". '
                f"Got kernels of shape {block.xy.shape} before and {inner.xy.shape} after the "
                "block."
            )
        return _sum(block, inner)


class Scale(_Composite):
    """K'(G) = scale * K(G).

    Args:
        kernel: a kernel, of Gram matrices or of features.
        scale: positive.

    Raises:
        ValueError: when `kernel` is no kernel, or a number or an initial value for `scale` is not
            positive and finite.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.Scale(kernels.Identity(), 3.0)]
        >>> print(nngp_kernel(layers, x).round(3))
        [[6. 3.]
         [3. 3.]]
    """

    kernel: Any = part()
    scale: Any = hyperparameter(default=learn(1.0))

    def __post_init__(self) -> None:
        _check_kernels("Scale", (self.kernel,))
        self.check_hyperparameters()

    @property
    def takes_features(self) -> bool:
        return self.kernel.takes_features

    @property
    def pools(self) -> bool:
        return self.kernel.pools

    def pairs(self, block: Pairs | Features) -> Pairs:
        return apply(self.kernel, block).everywhere(lambda k, points: self.scale * k)


class Repeat(Kernel):
    """The block applied `depth` times, with the same hyperparameters each time.

    In a compiled program the repetition is a loop: the program is no larger for 100 layers than for
    two.

    Args:
        block: a kernel of Gram matrices, or a list of them that is applied in order.
        depth: number of repetitions, at least 1; fixed.

    Raises:
        ValueError: when `block` has anything else in it, or `depth` is not a positive integer.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.Repeat(kernels.ArcCosine(1), 3)]
        >>> print(nngp_kernel(layers, x).round(3))
        [[2.    1.161]
         [1.161 1.   ]]
    """

    is_composite: ClassVar[bool] = True
    block: Kernel = part()
    depth: int

    def __init__(self, block: Any, depth: Any) -> None:
        kernel = Chain(*block) if isinstance(block, Sequence) else block
        if not isinstance(kernel, Kernel) or kernel.takes_features:
            raise ValueError(
                f"Expected Repeat(block, …) to be kernels of Gram matrices. Got {block!r}."
            )
        object.__setattr__(self, "block", kernel)
        object.__setattr__(self, "depth", positive_int("Repeat(depth=…)", depth))

    @property
    def pools(self) -> bool:
        return self.block.pools

    def pairs(self, block: Pairs) -> Pairs:
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((self, block))):
            return _in_turn(self.depth * [self.block], block)
        return jax.lax.scan(
            lambda carry, _: (self.block.pairs(carry), None), block, length=self.depth
        )[0]


def _in_turn(kernels: Sequence[Any], block: Any) -> Pairs:
    return functools.reduce(lambda value, kernel: apply(kernel, value), kernels, block)


@jax.jit
def _sum(a: Pairs, b: Pairs) -> Pairs:
    tangent = None if a.tangent is None or b.tangent is None else a.tangent + b.tangent
    return a.replace(xy=a.xy + b.xy, xx=a.xx + b.xx, yy=a.yy + b.yy, tangent=tangent)


@jax.jit
def _product(a: Pairs, b: Pairs) -> Pairs:
    # Of independent features: the tangent kernel obeys the product rule.
    tangent = (
        None if a.tangent is None or b.tangent is None else a.tangent * b.xy + a.xy * b.tangent
    )
    return a.replace(xy=a.xy * b.xy, xx=a.xx * b.xx, yy=a.yy * b.yy, tangent=tangent)


def _check_kernels(name: str, kernels: Sequence[Any]) -> None:
    wrong = [kernel for kernel in kernels if not isinstance(kernel, Kernel)]
    if wrong or not kernels:
        raise ValueError(
            f"Expected {name}(…) to be made of kernels. Got {repr(wrong[0]) if wrong else 'none'}."
        )


def _check_same_sort(name: str, kernels: Sequence[Any]) -> None:
    if len({kernel.takes_features for kernel in kernels}) > 1:
        raise ValueError(
            f"Expected {name}(…) of kernels of features, or of Gram matrices, not of both. Got "
            f"{kernels!r}. Put Linear() and the like in front of the layers, or use "
            "Chain(Linear(), …)."
        )
