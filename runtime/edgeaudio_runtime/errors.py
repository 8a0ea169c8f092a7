"""What can go wrong, in the words of the user: one line with the value, the rule and the remedy."""


class EdgeAudioError(Exception):
    """The root of all errors that are the caller's to mend; command lines print it as one line and exit with 2."""


class SpecError(EdgeAudioError, ValueError):
    """A value breaks the rule of its specification or of the call it was given to."""


class AudioError(EdgeAudioError, ValueError):
    """An audio file or stream cannot be used as it is."""


class BundleError(EdgeAudioError):
    """A bundle is missing, incomplete, altered, or newer than this runtime."""


class EngineError(EdgeAudioError):
    """An engine is not installed or cannot run the artifact."""


class ParityError(EdgeAudioError):
    """Two things that must agree could not be compared."""
