"""``edgeaudio data``: look at corpora, check them, fetch one, synthesize one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeaudio.commands.options import PathType, cache_option, echo_json, force_option, json_option
from edgeaudio.progress import progress_bar, say

if TYPE_CHECKING:
    from edgeaudio_models.corpora.windows import Window
    from edgeaudio_models.synthesis import SynthesizedCorpus


@click.group()
def data() -> None:
    """Look at recordings, check them, fetch or synthesize some."""


@data.command("list")
@click.argument("folder", type=PathType)
@json_option
def list_corpus(folder: Path, as_json: bool) -> None:
    """Say what FOLDER holds: labels, clips a split, speakers, sources."""
    from edgeaudio_models.corpora import open_corpus

    corpus = open_corpus(folder)
    splits = corpus.splits or ("",)
    counts = {split or "all": (corpus.select(split) if split else corpus).counts() for split in splits}
    speakers = len({name for name in corpus.speakers if name})
    if as_json:
        sources = [{"name": s.name, "licence": s.licence, "citation": s.citation} for s in corpus.sources]
        echo_json({"name": corpus.name, "clips": counts, "speakers": speakers, "sources": sources})
        return
    click.echo(f"{corpus.name}: {len(corpus)} clips, {speakers} speakers")
    click.echo(f"{'label':16s}" + "".join(f"{split:>12s}" for split in counts))
    for label in corpus.labels:
        click.echo(f"{label:16s}" + "".join(f"{count[label]:12d}" for count in counts.values()))
    for source in corpus.sources:
        click.echo(f"source {source.name}: {source.licence}")


@data.command()
@click.argument("folder", type=PathType)
@click.option("--rate", type=int, help="Sample rate in Hz that every file must have.")
@json_option
def check(folder: Path, rate: int | None, as_json: bool) -> None:
    """Open every clip of FOLDER and look for leaks between splits; exit 1 if something is wrong."""
    from edgeaudio_models.corpora import check_corpus, open_corpus

    corpus = open_corpus(folder)
    with progress_bar("checking") as progress:
        findings = check_corpus(corpus, sample_rate=rate, files=True, progress=progress)
    wrong = any(finding.severity == "error" for finding in findings)
    if as_json:
        rows = [{"severity": finding.severity, "message": finding.message} for finding in findings]
        echo_json({"passed": not wrong, "clips": len(corpus), "findings": rows})
    else:
        for finding in findings:
            click.echo(f"{finding.severity}: {finding.message}")
        click.echo(f"{len(corpus)} clips, {len(findings)} findings")
    raise SystemExit(int(wrong))


@data.command()
@click.argument("corpus", type=click.Choice(["speech-commands"]))
@click.argument("folder", type=PathType)
def fetch(corpus: str, folder: Path) -> None:
    """Download CORPUS and unpack it into FOLDER; a cut download goes on where it stopped."""
    from edgeaudio_models.download import fetch_speech_commands
    from edgeaudio_runtime.staging import refuse_overwrite

    refuse_overwrite(folder, force=False)
    say(f"fetching {corpus} (2.4 GB, CC BY 4.0)")
    with progress_bar("bytes") as progress:
        fetch_speech_commands(folder, progress=progress)
    click.echo(folder)


@data.command()
@click.argument("folder", type=PathType)
@click.option("--word", "words", multiple=True, required=True, help="A keyword; give one or more.")
@click.option("--clips", "n_per_word", type=int, default=200, show_default=True, help="Clips of each word.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--synthesizer", "names", multiple=True, help="pico, espeak-ng; default: all that are installed.")
@cache_option
@force_option
def synthesize(
    folder: Path,
    words: tuple[str, ...],
    n_per_word: int,
    seed: int,
    names: tuple[str, ...],
    cache: Path | None,
    force: bool,
) -> None:
    """Say words in many voices and write them to FOLDER as WAV files with a manifest.csv."""
    from edgeaudio_models.corpora import default_cache_folder
    from edgeaudio_models.recipe_data import chosen_synthesizers
    from edgeaudio_models.synthesis import synthesize_corpus
    from edgeaudio_runtime.staging import refuse_overwrite, staged_directory

    refuse_overwrite(folder, force=force)
    speakers = chosen_synthesizers(names)
    with progress_bar("synthesizing") as progress:
        corpus = synthesize_corpus(
            words, n_per_word, seed, cache or default_cache_folder(), progress, synthesizers=speakers
        )
    with staged_directory(folder, force=force) as staged:
        _write_corpus(staged, corpus)
    click.echo(folder)


@data.command()
@click.argument("folder", type=PathType)
@click.option(
    "--speech", "speech", type=PathType, multiple=True, required=True, help="A corpus of speech; one or more."
)
@click.option("--noise", "noise", type=(str, PathType), multiple=True, required=True,
              help="Name of a data set and a folder of its recordings, without speech; one or more.")  # fmt: skip
@click.option("--test-noise", multiple=True, help="Beginning of names of noise recordings that are for the test.")
@click.option("--seconds", type=float, default=0.32, show_default=True, help="Length of a window.")
@click.option("--rate", "sample_rate", type=int, default=16_000, show_default=True, help="Sample rate in Hz.")
@click.option("--seed", type=int, default=0, show_default=True)
@force_option
def windows(folder: Path, noise: tuple[tuple[str, Path], ...], force: bool, **plan: Any) -> None:
    """Cut windows of speech and of no speech from recordings into FOLDER, with a manifest.csv: a corpus for vad."""
    from edgeaudio_models.corpora.windows import WindowPlan, cut_windows
    from edgeaudio_runtime.staging import refuse_overwrite, staged_directory

    refuse_overwrite(folder, force=force)
    chosen = WindowPlan(noise=tuple(noise), **plan)
    with staged_directory(folder, force=force) as staged:
        count = _write_windows(staged, cut_windows(chosen), chosen.sample_rate)
    say(f"{count} windows of {chosen.seconds:g} s")
    click.echo(folder)


def _write_windows(folder: Path, found: Iterator[Window], sample_rate: int) -> int:
    import soundfile

    count = 0
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "word", "speaker", "split", "samples", "sample_rate", "source"])
        for count, window in enumerate(found, start=1):
            path = Path(window.split) / window.label / f"{count:06d}.flac"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / path, window.samples, sample_rate, subtype="PCM_16")
            facts = (window.label, "", window.speaker, window.split, len(window.samples), sample_rate, window.source)
            rows.writerow([path.as_posix(), *facts])
    return count


def _write_corpus(folder: Path, corpus: SynthesizedCorpus) -> None:
    import soundfile

    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "word", "speaker", "split", "samples", "sample_rate", "source"])
        for i, samples in enumerate(corpus.waveforms):
            label, split = corpus.labels[corpus.label_indices[i]], corpus.splits[i]
            path = Path(split) / label / f"{i:06d}.wav"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / path, samples, corpus.sample_rate, subtype="PCM_16")
            source = corpus.voices[i].partition(":")[0] or "generated noise"
            rows.writerow(
                [
                    path.as_posix(),
                    label,
                    corpus.words[i],
                    corpus.voices[i],
                    split,
                    len(samples),
                    corpus.sample_rate,
                    source,
                ]
            )
