"""What can go wrong, in the words of the user: one line with the value, the rule and the remedy."""

MAX_MESSAGE = 1000
"""Characters of a message; names and values from a hostile file would make it longer."""


class EdgeAudioError(Exception):
    """The root of all errors that are the caller's to mend; command lines print it as one line and exit with 2."""

    def __str__(self) -> str:
        """The message as one line of printable characters, whatever was quoted in it."""
        text = super().__str__()
        if len(text) > MAX_MESSAGE:
            # Rule and remedy stand at the ends.
            text = f"{text[: MAX_MESSAGE // 2 - 3]} ... {text[-MAX_MESSAGE // 2 + 3 :]}"
        if text.isprintable():
            return text
        escaped = (c if c.isprintable() else " " if c == "\n" else ascii(c)[1:-1] for c in text)
        return "".join(escaped)[:MAX_MESSAGE]


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
