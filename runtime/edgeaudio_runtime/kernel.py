"""What a kernel is: one operation bound to its constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

Kernel: TypeAlias = Callable[[list[Array], int], Array]
"""Input arrays ``[N, T, F, C]`` and the number of network steps in them, to the output array."""
