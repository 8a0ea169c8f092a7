"""``edgeaudio-run``: listen with a bundle to a file, a pipe or a microphone, and check a bundle on its device."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio_runtime import __version__
from edgeaudio_runtime.errors import EdgeAudioError, SpecError

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle

DONE, CHECK_FAILED, USAGE = 0, 1, 2
"""Exit codes: done, a check failed, wrong usage or input."""
_INTERRUPTED = 130
_EPILOG = """\
"-" reads standard input: a WAV stream, or raw little-endian int16 mono at the bundle's rate.
Events go to standard output, one a line; everything else goes to standard error.
exit codes: 0 done, 1 a check failed, 2 wrong usage or input"""


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as one line."""

    def error(self, message: str) -> Any:
        raise SpecError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``edgeaudio-run``."""
    parser = _Parser(
        prog="edgeaudio-run",
        description="Listen with an edgeaudio bundle.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle directory or .zip")
    parser.add_argument("audio", metavar="AUDIO", nargs="?", help='WAV file, or "-" for standard input')
    parser.add_argument("--mic", action="store_true", help="listen to the default microphone until interrupted")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument("--engine", default="auto", help="numpy, onnxruntime, litert or auto (the default)")
    parser.add_argument("--channel", type=int, metavar="N", help="channel of a file that has several, from 0")
    parser.add_argument("--resample", action="store_true", help="convert a file of another sample rate")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--selftest", action="store_true", help="replay the bundle's golden data and compare")
    what.add_argument("--info", action="store_true", help="print what the bundle is")
    what.add_argument("--doctor", action="store_true", help="check engines, extras, the bundle and a recording")
    parser.add_argument("--version", action="version", version=f"edgeaudio-run {__version__}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code. Whatever the input, one line on standard error, never a traceback."""
    try:
        arguments = build_parser().parse_intermixed_args(argv)
        return _command(arguments)(arguments)
    except SystemExit as stop:  # argparse: --help, --version
        return stop.code if isinstance(stop.code, int) else USAGE
    except EdgeAudioError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, which is its right; keep Python from failing once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except MemoryError:
        return _complain("not enough memory for this bundle or audio; is it one?")
    except Exception as error:  # damaged input has more ways to fail than can be listed; none may end in a traceback
        return _complain(f"cannot go on: {type(error).__name__}: {error}; is the input damaged?")


def _complain(message: str) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"edgeaudio-run: {line}\n")
    return USAGE


def _command(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    sources = int(arguments.audio is not None) + int(arguments.mic)
    if arguments.selftest or arguments.info:
        if sources:
            raise SpecError("--selftest and --info take no audio; leave AUDIO and --mic out")
        return _selftest if arguments.selftest else _info
    if arguments.doctor:
        return _doctor
    if sources != 1:
        raise SpecError('give exactly one of AUDIO, "-" and --mic; see edgeaudio-run --help')
    return _listen


def _open(arguments: argparse.Namespace) -> Bundle:
    from edgeaudio_runtime.bundle import open_bundle

    return open_bundle(Path(arguments.bundle))


def _listen(arguments: argparse.Namespace) -> int:
    from edgeaudio_runtime.sources import audio_chunks, microphone_chunks
    from edgeaudio_runtime.stream import AudioStream

    bundle = _open(arguments)
    rate = bundle.features.sample_rate
    with ExitStack() as stack:
        # Audio that cannot be used is refused before an engine is loaded, which may write lines of its own.
        if arguments.mic:
            chunks: Iterator[Any] = microphone_chunks(rate, stack)
        else:
            chunks = audio_chunks(arguments.audio, rate, stack, channel=arguments.channel, resample=arguments.resample)
        stream = AudioStream(bundle, engine=arguments.engine)
        for chunk in chunks:
            _print_events(stream.process(chunk), as_json=arguments.json)
    _print_events(stream.flush(), as_json=arguments.json)
    return DONE


def _print_events(events: list[Any], *, as_json: bool) -> None:
    for event in events:
        values = event.to_dict()
        _print(json.dumps(values, ensure_ascii=False) if as_json else _sentence(values))


def _sentence(event: dict[str, Any]) -> str:
    span = f"{event['start_s']:8.2f} - {event['end_s']:.2f} s"
    if event["event"] == "keyword":
        return f"{span}  {event['label']}  ({event['score']:.2f})"
    return f"{span}  {event['text']}{'' if event['final'] else ' ...'}"


def _selftest(arguments: argparse.Namespace) -> int:
    from edgeaudio_runtime.selftest import self_test

    report = self_test(_open(arguments), engine=arguments.engine)
    if arguments.json:
        _print(json.dumps(report.to_dict()))
    else:
        _print(f"engine {report.engine} ({report.version}), numerics {report.numerics}")
        for stage in report.stages:
            _print(f"  {'ok    ' if stage.passed else 'FAILED'} {stage.describe()}")
        _print("passed" if report.passed else "FAILED")
    return DONE if report.passed else CHECK_FAILED


def _info(arguments: argparse.Namespace) -> int:
    from edgeaudio_runtime.doctor import bundle_info

    info = bundle_info(_open(arguments))
    if arguments.json:
        _print(json.dumps(info, ensure_ascii=False))
    else:
        for name, value in info.items():
            _print(f"{name:>18}  {_plain(value)}")
    return DONE


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value) or "none"
    return str(value)


def _doctor(arguments: argparse.Namespace) -> int:
    from edgeaudio_runtime.doctor import examine
    from edgeaudio_runtime.sources import audio_chunks, microphone_chunks

    bundle = _open(arguments)
    rate = bundle.features.sample_rate
    with ExitStack() as stack:
        chunks: Iterator[Any] | None = None
        if arguments.mic:
            chunks = microphone_chunks(rate, stack, seconds=3.0)
        elif arguments.audio is not None:
            chunks = audio_chunks(arguments.audio, rate, stack, channel=arguments.channel, resample=arguments.resample)
        findings = examine(bundle, chunks)
    if arguments.json:
        _print(json.dumps({"passed": all(f.ok for f in findings), "findings": [f.to_dict() for f in findings]}))
    else:
        for finding in findings:
            _print(f"{'ok     ' if finding.ok else 'PROBLEM'} {finding.subject}: {finding.text}")
    return DONE if all(finding.ok for finding in findings) else CHECK_FAILED


def _print(line: str) -> None:
    # Flushed at once: whoever reads this pipe acts on the event now, not a block buffer later.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
