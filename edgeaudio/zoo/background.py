"""What a keyword bundle reports while it listens to hours of other sound."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgeaudio.parity.stream_statistics import claimable_rate, rate_interval
from edgeaudio.progress import progress_bar
from edgeaudio.zoo.reproduce import shown
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.events import KeywordEvent
from edgeaudio_runtime.stream import AudioStream


def background_figures(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Detections an hour over every recording below ``folder``, each a stream of its own.

    Returns:
        ``data``, ``hours``, ``files``, ``detections``, ``by_label``, ``per_hour``, ``per_hour_ci95``, and
        ``claimable_per_hour``: the rate that these hours without a single detection would exclude at 95 %.

    Raises:
        ParityError: There is no recording.
        AudioError: One cannot be read.
    """
    from edgeaudio_models.audio_files import is_audio, read_audio

    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_audio(path)]
    if not paths:
        raise ParityError(f"background={str(folder)!r} holds no audio file; give a folder of recordings")
    stream, rate = AudioStream(bundle), bundle.features.sample_rate
    heard: Counter[str] = Counter()
    n_samples = 0
    with progress_bar("listening to the background") as progress:
        for done, path in enumerate(paths):
            samples = read_audio(path, sample_rate=rate)[0]
            n_samples += len(samples)
            events = (*stream.process(samples), *stream.flush())
            heard.update(event.label for event in events if isinstance(event, KeywordEvent))
            progress(done + 1, len(paths))
    hours, count = n_samples / rate / 3600, heard.total()
    return {
        "data": shown(folder),
        "files": len(paths),
        "hours": hours,
        "detections": count,
        "by_label": dict(sorted(heard.items())),
        "per_hour": count / hours,
        "per_hour_ci95": list(rate_interval(count, hours)),
        "claimable_per_hour": claimable_rate(hours),
    }
