"""Licences of training data: SPDX identifiers, and whether they allow commercial use of what was made from the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

COMMERCIAL_USE: Mapping[str, str] = MappingProxyType(
    {
        "Apache-2.0": "yes",
        "BSD-2-Clause": "yes",
        "BSD-3-Clause": "yes",
        "CC-BY-3.0": "yes",
        "CC-BY-4.0": "yes",
        "CC-BY-SA-3.0": "yes",
        "CC-BY-SA-4.0": "yes",
        "CC0-1.0": "yes",
        "CDLA-Permissive-2.0": "yes",
        # Of programs whose output was used: their terms do not reach what they say.
        "GPL-3.0-only": "yes",
        "GPL-3.0-or-later": "yes",
        "LGPL-2.1-or-later": "yes",
        "MIT": "yes",
        "CC-BY-NC-3.0": "no",
        "CC-BY-NC-4.0": "no",
        "CC-BY-NC-ND-4.0": "no",
        "CC-BY-NC-SA-3.0": "no",
        "CC-BY-NC-SA-4.0": "no",
    }
)
"""Whether the licence of a source stands in the way of commercial use, by SPDX identifier."""

SHARE_ALIKE = ("CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0")
"""Licences that hand themselves on to adaptations; whether weights are one is not settled."""

_BY_NAME = {name.lower(): name for name in COMMERCIAL_USE} | {
    "cc0": "CC0-1.0",
    "gpl-3.0": "GPL-3.0-only",
    "gplv3": "GPL-3.0-only",
    "gpl-3.0+": "GPL-3.0-or-later",
    "apache": "Apache-2.0",
    "mit-license": "MIT",
}


def spdx(licence: str) -> str | None:
    """SPDX identifier of a licence as its publisher names it ("CC BY 4.0"), or None where it is not known.

    What stands in parentheses behind the name ("Apache-2.0 (SVOX Pico)") says whose it is.
    """
    name = licence.partition("(")[0].strip()
    return _BY_NAME.get(re.sub(r"[\s_]+", "-", name).lower())


def commercial_use(licences: Iterable[str]) -> str:
    """ "yes", "no" or "unknown" for all of these licences together: the worst of them, unknown ones after "no".

    Without any licence the answer is "unknown".
    """
    answers = [COMMERCIAL_USE[known] if (known := spdx(licence)) else "unknown" for licence in licences]
    for answer in ("no", "unknown"):
        if answer in answers:
            return answer
    return "yes" if answers else "unknown"
