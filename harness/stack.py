"""Room on Python's own stack, without which the host's share of a prefill depends on who called it.

CPython 3.11, 3.12 and the first releases of 3.13 and 3.14 keep frames in chunks of 16 KiB. Where a call
inside a loop is the one that crosses into a new chunk, each such call maps memory and gives it back: in every
layer of a model, say. Which call that is depends on the depth of the stack alone. So the same prefill took
another time from a script than from a function in it, and an arm with one frame more another time than its
baseline (benchmarks/stack_depth.py). Later releases of 3.13 and 3.14 have it mended, 3.11 and 3.12 have not
(https://github.com/python/cpython/issues/142183).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# Of 8 bytes each. The frame that opens a chunk gets one of its own size, rounded up to a power of two: here
# 1 MiB, whose other half is left for some thousand frames.
SLOTS = 66_000


def with_room(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """`function`, whose calls find half a MiB of stack in one piece, however deep it is called.

    >>> with_room(len)("abc")
    3
    """

    def roomy(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        return function(*args, **kwargs)

    roomy.__code__ = roomy.__code__.replace(co_stacksize=SLOTS)
    return functools.wraps(function)(roomy)
