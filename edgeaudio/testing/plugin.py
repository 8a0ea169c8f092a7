"""The pytest plugin ``edgeaudio-parity``: the assertions of ``edgeaudio.testing`` as fixtures.

It imports nothing but pytest until a test asks for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., Any]:
    """See :func:`edgeaudio.testing.assert_parity`."""
    from edgeaudio import testing

    return testing.assert_parity


@pytest.fixture(scope="session")
def assert_streaming_equals_offline() -> Callable[..., None]:
    """See :func:`edgeaudio.testing.assert_streaming_equals_offline`."""
    from edgeaudio import testing

    return testing.assert_streaming_equals_offline


@pytest.fixture(scope="session")
def assert_bundle() -> Callable[..., Any]:
    """See :func:`edgeaudio.testing.assert_bundle`."""
    from edgeaudio import testing

    return testing.assert_bundle
