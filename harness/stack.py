"""Work around CPython gh-142183: host-bound timings no longer depend on call depth.

CPython 3.11, 3.12 and the first releases of 3.13 and 3.14 keep frames in chunks of 16 KiB. If a call inside a
loop crosses into a new chunk, every iteration maps and unmaps memory, for instance in every layer of a model.
Which call that is depends only on the depth of the stack. The same prefill therefore took a different time
when called from a function, and an arm with one more frame a different time from its baseline
(benchmarks/stack_depth.py). Later releases of 3.13 and 3.14 fix it; 3.11 and 3.12 do not
(https://github.com/python/cpython/issues/142183).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# Of 8 bytes each. The frame that opens a chunk gets one of its own size rounded up to a power of two: here
# 1 MiB, whose other half is left for some thousand frames.
SLOTS = 66_000


def with_room(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Give calls of `function` half a MiB of contiguous stack, at any depth.

    >>> with_room(len)("abc")
    3
    """

    def roomy(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        return function(*args, **kwargs)

    roomy.__code__ = roomy.__code__.replace(co_stacksize=SLOTS)
    return functools.wraps(function)(roomy)
