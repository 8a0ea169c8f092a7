"""The zoo: trained models that come with the package, each a folder that is a checkpoint of float16 weights and more.

``recipe.toml``, ``checkpoint.json`` and ``weights.safetensors`` are the checkpoint; ``bundle/`` is the int8 form that
was made from it, ``card.json`` what was measured of both, ``card.md`` the same for people.
"""

from __future__ import annotations

from pathlib import Path

from edgeaudio_runtime.errors import SpecError

ZOO_FOLDER = Path(__file__).with_name("zoo")
BUNDLE, CARD, CARD_TEXT, CURVE = "bundle", "card.json", "card.md", "learning_curve.svg"
RECIPE = "recipe.toml"


def entry_names() -> tuple[str, ...]:
    """Names of the entries that come with the package."""
    return tuple(sorted(path.parent.name for path in ZOO_FOLDER.glob(f"*/{CARD}")))


def entry_folder(source: str | Path) -> Path:
    """Folder of an entry by its name, or of one that lies elsewhere by its path.

    Raises:
        SpecError: It is neither; the names there are stand in the message.
    """
    folder = checkpoint_folder(source)
    if not (folder / CARD).is_file():
        raise SpecError(f"entry={str(source)!r} must be a folder with {CARD} or one of {list(entry_names())}")
    return folder


def checkpoint_folder(source: str | Path) -> Path:
    """``source`` as it is; where no such path exists and an entry has this name, the entry's folder."""
    path = Path(source)
    return ZOO_FOLDER / path if not path.exists() and str(source) in entry_names() else path
