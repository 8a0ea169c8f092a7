"""The command line of the build side.

stdout is the result, stderr is progress; exit 0 done, 1 a check failed, 2 wrong usage or input.
"""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from edgeaudio.commands.bench import bench
from edgeaudio.commands.compare import compare
from edgeaudio.commands.data import data
from edgeaudio.commands.demo import demo
from edgeaudio.commands.diagnose import diagnose
from edgeaudio.commands.export import export
from edgeaudio.commands.inspect import inspect
from edgeaudio.commands.parity import parity
from edgeaudio.commands.sweep import sweep
from edgeaudio.commands.theory import theory
from edgeaudio.commands.train import train
from edgeaudio.commands.tune import tune
from edgeaudio.commands.zoo import zoo
from edgeaudio_runtime.errors import EdgeAudioError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it: 128 + SIGINT."""


class OneLineErrors(click.Group):
    """Turns every error that is the user's to mend into one line on stderr and exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_usage(error))
        except click.Abort:
            sys.exit(INTERRUPTED)
        except EdgeAudioError as error:
            _fail(str(error))
        except ModuleNotFoundError as error:
            _fail(_missing(error))
        except OSError as error:
            _fail(_system(error))
        except MemoryError:
            _fail("not enough memory; give fewer or shorter clips")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    click.echo(f"edgeaudio: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    remedy = f"; see {context.command_path} --help" if context is not None else ""
    return f"{error.format_message().rstrip('.')}{remedy}"


def _missing(error: ModuleNotFoundError) -> str:
    name = (error.name or "a module").partition(".")[0]
    extra = {
        "torch": "torch",
        "torchao": "torch",
        "onnxscript": "torch",
        "nanotts": "synthesis",
        "espeakng_loader": "synthesis",
        "matplotlib": "plots",
        "tensorboard": "tensorboard",
        "webdataset": "webdataset",
        "datasets": "datasets",
    }.get(name)
    remedy = f"edgeaudio[{extra}]" if extra else name
    return f"{name} is not installed; run: pip install '{remedy}'"


def _system(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on the device; nothing was kept, free some space and run again"
    if error.filename is not None:
        return f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"
    return str(error)


@click.group("edgeaudio", cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeaudio")
def main() -> None:
    """Turn a small PyTorch audio model into an int8 artifact that listens, with proof that nothing was lost."""


for _command in (data, train, export, diagnose, parity, compare, tune, bench, inspect, demo, sweep, theory, zoo):
    main.add_command(_command)
