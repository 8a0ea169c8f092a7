"""``edgeaudio-run``: listen with a bundle to a file, a pipe or a microphone, and check a bundle on its device."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio_runtime import __version__
from edgeaudio_runtime.errors import AudioError, EdgeAudioError, SpecError

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle
    from edgeaudio_runtime.listening import Stream
    from edgeaudio_runtime.recording_findings import Finding
    from edgeaudio_runtime.sources import SourceOptions

DONE, CHECK_FAILED, USAGE = 0, 1, 2
"""Exit codes: done, a check failed, wrong usage or input."""
_INTERRUPTED = 130
_DOCTOR_S, _DOCTOR_RATE = 3.0, 16_000
"""How long the doctor listens to a microphone, and at which rate in Hz where no bundle says one."""
_EPILOG = """\
"-" reads standard input: a WAV stream, or raw samples (--rate, --channels, --format; by default little-endian int16
mono at the bundle's rate).
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
    parser.add_argument(
        "paths", metavar="BUNDLE [BUNDLE ...] [AUDIO]", nargs="*",
        help='bundle directories or .zip files; then a sound file, or "-" for standard input',
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument("--engine", default="auto", help="native, litert, onnxruntime, numpy or auto (the default)")
    parser.add_argument(
        "--gate", metavar="BUNDLE", help="report only what this bundle (voice activity) heard speech in"
    )
    parser.add_argument(
        "--language", action="append", metavar="CODE", help="with --wyoming: what the bundles understand"
    )
    _add_audio_options(parser.add_argument_group("audio"))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--selftest", action="store_true", help="replay the bundle's golden data and compare")
    what.add_argument("--info", action="store_true", help="print what the bundle is")
    what.add_argument("--wyoming", metavar="URI", help="serve the bundles to Home Assistant, as at tcp://0.0.0.0:10400")
    what.add_argument("--doctor", action="store_true", help="check engines, extras, a bundle and a recording")
    parser.add_argument("--version", action="version", version=f"edgeaudio-run {__version__}")
    return parser


def _add_audio_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--mic", action="store_true", help="listen to a microphone until interrupted")
    group.add_argument("--device", metavar="D", help="microphone, by number or part of its name")
    group.add_argument("--channel", type=int, metavar="N", help="the channel to hear where there are several, from 0")
    group.add_argument("--resample", action="store_true", help="convert audio of another sample rate")
    group.add_argument("--rate", type=int, metavar="HZ", help="of raw samples, or to open the microphone with")
    group.add_argument("--channels", type=int, metavar="N", help="of raw samples, or to open the microphone with")
    group.add_argument("--format", metavar="F", help="of raw samples: s16le (the default) or f32le")


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
    _tell(message)
    return USAGE


def _tell(message: str) -> None:
    sys.stderr.write(f"edgeaudio-run: {' '.join(message.split())}\n")


def _command(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    if arguments.doctor:
        return _doctor
    if arguments.selftest or arguments.info:
        if len(arguments.paths) > 1 or arguments.mic:
            raise SpecError("--selftest and --info take no audio; leave AUDIO and --mic out")
        return _selftest if arguments.selftest else _info
    return _listen if arguments.wyoming is None else _serve


def _open(path: str) -> Bundle:
    from edgeaudio_runtime.bundle import open_bundle

    return open_bundle(Path(path))


def _only_bundle(arguments: argparse.Namespace) -> Bundle:
    if not arguments.paths:
        raise SpecError("give a BUNDLE, a directory or .zip file; see edgeaudio-run --help")
    return _open(arguments.paths[0])


def _is_bundle(path: str) -> bool:
    return path != "-" and (Path(path).is_dir() or path.endswith(".zip"))


def _source_options(arguments: argparse.Namespace, audio: str | None, *, seconds: float | None = None) -> SourceOptions:
    from edgeaudio_runtime.sources import SourceOptions

    device = arguments.device
    return SourceOptions(
        audio=audio, rate=arguments.rate, channels=arguments.channels, encoding=arguments.format,
        channel=arguments.channel, resample=arguments.resample, seconds=seconds,
        device=int(device) if device is not None and device.isdecimal() else device,
    )  # fmt: skip


def _listen(arguments: argparse.Namespace) -> int:
    from edgeaudio_runtime.sources import mono_chunks, open_source

    *paths, audio = (*arguments.paths, None) if arguments.mic else arguments.paths or ("",)
    if not paths or (arguments.mic and not all(_is_bundle(path) for path in paths[1:])):
        raise SpecError('give a BUNDLE and exactly one of AUDIO, "-" and --mic; see edgeaudio-run --help')
    bundles = [_open(path) for path in paths]
    rate = bundles[0].features.sample_rate
    with ExitStack() as stack:
        # Audio that cannot be used is refused before an engine is loaded, which may write lines of its own.
        options = _source_options(arguments, audio)
        source = open_source(options, rate, stack, warn=_tell)
        chunks = mono_chunks(source, rate, channel=options.channel, resample=options.resample)
        ear = _open_ear(bundles, arguments)
        for chunk in chunks:
            _print_events(ear.process(chunk), as_json=arguments.json)
    _print_events(ear.flush(), as_json=arguments.json)
    return DONE


def _open_ear(bundles: list[Bundle], arguments: argparse.Namespace) -> Stream:
    if len(bundles) == 1 and arguments.gate is None:
        from edgeaudio_runtime.stream import AudioStream

        return AudioStream(bundles[0], engine=arguments.engine)
    from edgeaudio_runtime.hub import Hub

    gate = None if arguments.gate is None else _open(arguments.gate)
    return Hub(bundles, engine=arguments.engine, gate=gate)


def _print_events(events: list[Any], *, as_json: bool) -> None:
    for event in events:
        values = event.to_dict()
        _print(json.dumps(values, ensure_ascii=False) if as_json else _sentence(values))


def _sentence(event: dict[str, Any]) -> str:
    span = f"{event['start_s']:8.2f} - {event['end_s']:.2f} s"
    if event["event"] == "keyword":
        words = f"{event['label']}  ({event['score']:.2f})"
    else:
        words = f"{event['text']}{'' if event['final'] else ' ...'}"
    return f"{span}  {words}  {event.get('bundle', '')}".rstrip()


def _serve(arguments: argparse.Namespace) -> int:
    import asyncio

    from edgeaudio_runtime.wyoming_catalogue import Catalogue
    from edgeaudio_runtime.wyoming_server import check_wyoming, serve

    if arguments.mic or arguments.gate is not None:
        raise SpecError("--wyoming takes its audio from clients and has no gate; leave --mic and --gate out")
    check_wyoming()
    bundles = [_open(path) for path in arguments.paths]
    catalogue = Catalogue(bundles, engine=arguments.engine, languages=tuple(arguments.language or ()))
    asyncio.run(serve(catalogue, arguments.wyoming, channel=arguments.channel, tell=_tell))
    return DONE


def _selftest(arguments: argparse.Namespace) -> int:
    from edgeaudio_runtime.selftest import self_test

    report = self_test(_only_bundle(arguments), engine=arguments.engine)
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

    info = bundle_info(_only_bundle(arguments))
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

    *paths, audio = (*arguments.paths, None) if arguments.mic else (arguments.paths or [None])
    if audio is not None and not paths and _is_bundle(audio):
        paths, audio = [audio], None
    if len(paths) > 1:
        raise SpecError("--doctor takes one BUNDLE and one AUDIO or --mic; leave the others out")
    bundle = _open(paths[0]) if paths else None
    findings = examine(bundle)
    if arguments.mic or audio is not None:
        findings += _examine_source(arguments, bundle, audio)
    if arguments.json:
        _print(json.dumps({"passed": all(f.ok for f in findings), "findings": [f.to_dict() for f in findings]}))
    else:
        for finding in findings:
            _print(f"{'ok     ' if finding.ok else 'PROBLEM'} {finding.subject}: {finding.text}")
    return DONE if all(finding.ok for finding in findings) else CHECK_FAILED


def _examine_source(arguments: argparse.Namespace, bundle: Bundle | None, audio: str | None) -> list[Finding]:
    from edgeaudio_runtime.recording import Recording
    from edgeaudio_runtime.recording_findings import Expectation, Finding, examine_recording
    from edgeaudio_runtime.sources import open_source

    expected = Expectation() if bundle is None else Expectation.of_bundle(bundle)
    options = _source_options(arguments, audio, seconds=_DOCTOR_S)
    if audio is None:
        _tell(f"speak for {_DOCTOR_S:g} s")
    try:
        with ExitStack() as stack:
            source = open_source(options, expected.sample_rate or _DOCTOR_RATE, stack, warn=_tell)
            recording = Recording.of(source.frames(), source.sample_rate)
    except AudioError as error:
        if audio is not None:
            raise
        return [Finding(subject="microphone", ok=False, text=str(error))]
    return examine_recording(recording, expected, channel=options.channel, resample=options.resample)


def _print(line: str) -> None:
    # Flushed at once: whoever reads this pipe acts on the event now, not a block buffer later.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
