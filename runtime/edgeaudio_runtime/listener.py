"""What listens to the logits: the detector of a keyword bundle or the decoder of a ctc bundle, behind one face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import FeatureSpec, MelSpec, PcmSpec
from edgeaudio_runtime.noise_gate import decibels_per_unit

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle
    from edgeaudio_runtime.ctc_decoder import DecoderConfig
    from edgeaudio_runtime.detector_config import DetectorConfig
    from edgeaudio_runtime.probabilities import Watch

Features = npt.NDArray[np.float32]
Codes = npt.NDArray[np.integer[Any]]


class Listener(Protocol):
    """Turns the logits of one stream into events; how the outputs are cut into calls changes none of them."""

    @property
    def watch(self) -> Watch | None:
        """What ends idleness, or None for a listener that must hear every step at once."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether steps may wait, to be heard in one call, until one that :attr:`watch` describes."""
        ...

    @property
    def latched(self) -> npt.NDArray[np.bool_]:
        """Labels that end no idleness before they were below their release, ``[n_labels]``."""
        ...

    def hear(self, codes: Codes, features: Features) -> list[Event]:
        """Take the logit codes of whole steps and the features that went into them; return the events they complete."""
        ...

    def pass_over(self, codes: Codes, features: Features, *, n_before: int) -> None:
        """Take steps as :meth:`hear` does of which :attr:`watch` says that nothing comes of them.

        Before them went ``n_before`` more like them, which are only counted; see ``KeywordDetector.pass_over``.
        """
        ...

    def finish(self) -> list[Event]:
        """What was outstanding when the stream ended."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...


def activity(spec: FeatureSpec, features: Features) -> npt.NDArray[np.float32]:
    """One loudness-like value a frame: the sum of its features, the first coefficient of a DCT, raw samples in dB."""
    if isinstance(spec, PcmSpec):
        power = np.add.reduce(features * features, axis=1) / np.float32(spec.win_length)
        decibels: npt.NDArray[np.float32] = np.float32(10) * np.log10(power + np.float32(1e-10))
        return decibels
    if isinstance(spec, MelSpec) and spec.n_dct > 0:
        return features[:, 0]
    # Summing along the contiguous axis gives a frame the same value whatever stands beside it.
    with np.errstate(invalid="ignore", over="ignore"):  # of specifications whose features are near the largest float
        total: npt.NDArray[np.float32] = np.add.reduce(features, axis=1)
    return total


def open_listener(bundle: Bundle, config: DetectorConfig | DecoderConfig | None = None) -> Listener:
    """The listener of ``bundle``, with its own settings or with ``config``."""
    if bundle.task == "keyword":
        return KeywordListener(bundle, bundle.detector_config if config is None else config)
    return TranscriptListener(bundle, bundle.decoder_config if config is None else config)


class KeywordListener:
    """A :class:`~edgeaudio_runtime.detector.KeywordDetector` fed with the activity of the features."""

    def __init__(self, bundle: Bundle, config: Any) -> None:
        from edgeaudio_runtime.detector import KeywordDetector

        self._spec = bundle.features
        self._detector = KeywordDetector(
            config,
            labels=bundle.labels,
            background_labels=bundle.background_labels,
            output_quant=bundle.manifest.network.output_quant,
            clock=bundle.clock,
            output=bundle.manifest.network.output,
            decibels_per_unit=decibels_per_unit(bundle.features),
        )

    @property
    def watch(self) -> Watch:
        """See :class:`Listener`."""
        return self._detector.watch

    @property
    def is_idle(self) -> bool:
        """See :class:`Listener`."""
        return self._detector.is_idle

    @property
    def latched(self) -> npt.NDArray[np.bool_]:
        """See :class:`Listener`."""
        return self._detector.latched

    def hear(self, codes: Codes, features: Features) -> list[Event]:
        """See :class:`Listener`."""
        return [*self._detector.process(codes, activity(self._spec, features))] if len(codes) else []

    def pass_over(self, codes: Codes, features: Features, *, n_before: int) -> None:
        """See :class:`Listener`."""
        self._detector.pass_over(codes, activity(self._spec, features), n_before=n_before)

    def finish(self) -> list[Event]:
        """The keyword whose word was still sounding, if any."""
        return [*self._detector.flush()]

    def reset(self) -> None:
        """Forget everything."""
        self._detector.reset()


class HearsEveryStep:
    """What a listener is that must hear every step at once."""

    watch = None
    is_idle = False
    latched = np.zeros(0, dtype=bool)

    def pass_over(self, codes: Codes, features: Features, *, n_before: int) -> None:
        """See :class:`Listener`; without a watch nobody passes anything over."""


class TranscriptListener(HearsEveryStep):
    """A :class:`~edgeaudio_runtime.ctc_decoder.CtcDecoder`; the features are not looked at."""

    def __init__(self, bundle: Bundle, config: Any) -> None:
        from edgeaudio_runtime.ctc_decoder import CtcDecoder

        self._decoder = CtcDecoder(
            config,
            labels=bundle.labels,
            clock=bundle.clock,
            latency_frames=bundle.manifest.network.latency_frames,
            output_quant=bundle.manifest.network.output_quant,
            output=bundle.manifest.network.output,
        )

    def hear(self, codes: Codes, features: Features) -> list[Event]:
        """See :class:`Listener`."""
        return [*self._decoder.process(codes)]

    def finish(self) -> list[Event]:
        """The transcript under way, as final."""
        return [*self._decoder.flush()]

    def reset(self) -> None:
        """Forget everything."""
        self._decoder.reset()
