"""Golden data: one clip on its way from PCM to events, as the bundle's builder saw it."""

from __future__ import annotations

import io
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.bounds import MAX_GRAPH_BYTES, check_size
from edgeaudio_runtime.errors import BundleError
from edgeaudio_runtime.record import Record

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle

Codes = npt.NDArray[np.integer[Any]]

_NAMES = {name: f"golden/{name}.npy" for name in ("pcm", "features", "codes", "logits")} | {
    "events": "golden/events.json"
}

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<type>[<>|]\w\d*)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:\d{1,20}, ?){0,4}\d{0,20})\), \} *\n",
    re.DOTALL,
)


class Golden(Record):
    """What went in and what came out at every stage, from reset to flush."""

    pcm: npt.NDArray[np.int16]
    """``[n_samples]``, at the bundle's rate."""
    features: npt.NDArray[np.float32]
    """``[n_frames, n_features]``; n_frames is a whole number of steps."""
    codes: Codes
    """``[n_frames, n_features]``: the features quantized."""
    logits: Codes
    """``[n_outputs, n_labels]``: the numpy engine on ``codes``, or ONNX Runtime where the bundle is for it alone."""
    config: dict[str, Any] | None
    """Settings of the detector or decoder that made the events (``detector.json`` may have been tuned since); None in
    bundles that do not say, where those of the bundle are taken."""
    events: list[dict[str, Any]]
    """JSON form of the events of ``logits``."""

    def to_files(self) -> dict[str, bytes]:
        """Paths in the bundle to bytes; artifacts of role "golden"."""
        files = {path: _npy_bytes(getattr(self, name)) for name, path in _NAMES.items() if name != "events"}
        events = {"config": self.config, "events": self.events}
        files[_NAMES["events"]] = (json.dumps(events, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
        return files

    @classmethod
    def read(cls, bundle: Bundle) -> Golden:
        """Golden data of ``bundle``; raises BundleError if a file is missing or is not what its name says."""
        network = bundle.manifest.network
        kinds = {
            "pcm": ("int16", 1),
            "features": ("float32", 2),
            "codes": (network.input_quant.dtype, 2),
            "logits": (network.output_quant.dtype, 2),
        }
        arrays: dict[str, Any] = {
            name: _load_npy(bundle.read(_NAMES[name]), _NAMES[name], *kind) for name, kind in kinds.items()
        }
        try:
            events = check_size(_NAMES["events"], bundle.read(_NAMES["events"]), MAX_GRAPH_BYTES)
            document = json.loads(events.decode())
            plain = isinstance(document, list)
            config = None if plain else dict(document["config"])
            lines = [dict(line) for line in (document if plain else document["events"])]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BundleError(f"{_NAMES['events']} must hold events: {error!r}; export the bundle again") from error
        return cls(**arrays, config=config, events=lines)


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _load_npy(data: bytes, name: str, dtype: str, ndim: int) -> npt.NDArray[Any]:
    """Read what :func:`_npy_bytes` wrote; numpy's own readers evaluate the header and allocate what it asks for."""
    header = _HEADER.match(data)
    if header is None or header.end() != 10 + int.from_bytes(data[8:10], "little"):
        raise BundleError(f"{name} is no .npy file of version 1.0; export the bundle again")
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    found, body = header["type"].decode(), memoryview(data)[header.end() :]
    wanted = np.dtype(dtype).newbyteorder("<")
    if found != wanted.str or len(shape) != ndim or math.prod(shape) * wanted.itemsize != len(body):
        raise BundleError(f"{name} is {found}{list(shape)} in {len(body)} bytes, it must be {wanted} with {ndim} axes")
    return np.frombuffer(body, dtype=wanted).reshape(shape).astype(dtype, copy=False)
