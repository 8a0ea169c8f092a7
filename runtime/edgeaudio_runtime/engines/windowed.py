"""A network that looks at windows of frames, run in a stream: the newest frames are kept, each step is a window."""

from __future__ import annotations

import numpy as np

from edgeaudio_runtime.engines.base import Codes, NetworkSignature, Numerics, Program, Session
from edgeaudio_runtime.engines.boundary import check_codes
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.quantization import quantize


class WindowedProgram:
    """A stateless program behind a memory of frames, so that it streams like any other.

    Args:
        program: Takes one window in a step.
        signature: Of the stream: its ``step_frames`` lie between the starts of two windows.
        latency_frames: A window ends this many frames before the end of its step.
        features: Front end of the network; the stream begins after its digital silence.

    Raises:
        SpecError: Frames would be left out between two windows.
    """

    def __init__(
        self, program: Program, signature: NetworkSignature, *, latency_frames: int, features: FeatureSpec
    ) -> None:
        self._program, self._signature = program, signature
        n_kept = program.signature.step_frames + latency_frames - signature.step_frames
        if n_kept < 0:
            raise SpecError(f"step_frames={signature.step_frames} must be <= the window and the latency together")
        zeros = np.zeros(features.win_length, dtype=np.int16)
        silence = quantize(compute_features(features, zeros)[:1], signature.input_quant)
        self._before: Codes = np.repeat(silence, n_kept, axis=0)

    @property
    def engine(self) -> str:
        """Engine of the program inside."""
        return self._program.engine

    @property
    def numerics(self) -> Numerics:
        """Numerics of the program inside."""
        return self._program.numerics

    @property
    def version(self) -> str:
        """Version of the program inside."""
        return self._program.version

    @property
    def signature(self) -> NetworkSignature:
        """Of the stream."""
        return self._signature

    def session(self) -> Session:
        """Open a stream that begins after silence."""
        window = self._program.signature.step_frames
        return WindowedSession(self._program.session(), self._signature, window=window, before=self._before)


class WindowedSession:
    """One stream: the frames of coming windows, and a session inside."""

    def __init__(self, session: Session, signature: NetworkSignature, *, window: int, before: Codes) -> None:
        self._session, self._signature, self._window = session, signature, window
        self._before = self._kept = before

    def run(self, codes: Codes, /) -> Codes:
        """Codes ``[k * step_frames, n_features]`` to the logits of k windows ``[k * outputs_per_step, n_labels]``."""
        n_steps, hop = check_codes(codes, self._signature), self._signature.step_frames
        frames = np.concatenate((self._kept, codes))
        windows = [self._session.run(frames[i * hop : i * hop + self._window]) for i in range(n_steps)]
        self._kept = frames[len(frames) - len(self._before) :].copy()  # a view would keep all of them
        return np.concatenate(windows) if windows else self._session.run(codes[:0])

    def reset(self) -> None:
        """Begin anew after silence."""
        self._kept = self._before
        self._session.reset()
