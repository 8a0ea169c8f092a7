"""Self-contained HTML reports: one file, no script, nothing from the network, fit for A4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """Running text."""

    text: str
    """Plain text; it is escaped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How it ended, to be seen before anything is read."""

    text: str
    """Plain text; it is escaped, and says the verdict without the colour."""
    passed: bool
    """Green or red."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under named columns; the first cell of a row names it."""

    columns: tuple[str, ...]
    """Headings, one a column."""
    rows: tuple[tuple[str, ...], ...]
    """Plain text, one cell a column; format numbers before."""
    caption: str
    """What the table shows, with units."""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise SpecError(
                    f"rows[{index}] has {len(row)} cells, must have {len(self.columns)}; give one for each column"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A drawing with a caption, which is also what a screen reader says."""

    svg: str
    """An ``<svg>`` element, as ``edgeaudio.plots`` draws it; the one part that is not escaped."""
    caption: str
    """What it shows, with units."""
    tall: bool = False
    """Whether it may take a whole printed page; others take half of one at most."""

    def __post_init__(self) -> None:
        if not self.svg.startswith("<svg"):
            raise SpecError(f"svg={self.svg[:20]!r} must begin with '<svg'; draw it with edgeaudio.plots")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The command line that reproduces the numbers above it."""

    text: str
    """As it is typed into a shell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """Lines to copy into a file."""

    text: str
    """Plain text, shown as it is."""


UNBROKEN = 16
"""Characters of a cell that is never broken into lines."""

Part = Paragraph | Verdict | Table | Figure | Command | Lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    """Heading; also the entry in the contents."""
    parts: tuple[Part, ...]
    """In order."""


def render_page(title: str, sections: Sequence[Section]) -> str:
    """One HTML document; the same arguments give the same bytes.

    Args:
        title: Of the page and of its first heading.
        sections: In order; with more than two of them the page begins with a list of contents.

    Returns:
        The document as text, to be written in UTF-8.
    """
    return "\n".join(_document(title, sections)) + "\n"


def _document(title: str, sections: Sequence[Section]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>"
    if len(sections) > 2:
        entries = (f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections, 1))
        yield f'<nav aria-label="Contents"><ol>{"".join(entries)}</ol></nav>'
    for number, section in enumerate(sections, 1):
        yield f'<section id="s{number}">\n<h2>{escape(section.title)}</h2>'
        for part in section.parts:
            yield _RENDERERS[type(part)](part)
        yield "</section>"
    yield "</main>\n</body>\n</html>"


def _paragraph(part: Paragraph) -> str:
    return f"<p>{escape(part.text)}</p>"


def _verdict(part: Verdict) -> str:
    return f'<p class="verdict {"passed" if part.passed else "failed"}">{escape(part.text)}</p>'


def _table(part: Table) -> str:
    words = [_is_of_words([row[i] for row in part.rows]) for i in range(len(part.columns))]
    head = "".join(map(_heading, part.columns, [False, *words[1:]]))
    rows = "\n".join(_row(row, words) for row in part.rows)
    return (
        f'<div class="wide"><table>\n<caption>{escape(part.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _is_of_words(cells: Sequence[str]) -> bool:
    """Whether no cell of a column begins with a number; a dash stands for a missing one."""
    return any(cell != "-" for cell in cells) and not any(cell.lstrip("+-")[:1].isdigit() for cell in cells)


def _heading(text: str, is_word: bool) -> str:
    return f'<th{_classes(words=is_word)} scope="col">{escape(text)}</th>'


def _row(row: tuple[str, ...], words: Sequence[bool]) -> str:
    """Words stand to the left; short cells, numbers with their units above all, are not broken."""
    cells = "".join(
        f"<td{_classes(words=is_word, whole=len(cell) <= UNBROKEN)}>{escape(cell)}</td>"
        for cell, is_word in zip(row[1:], words[1:], strict=True)
    )
    return f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>' if row else "<tr></tr>"


def _classes(**named: bool) -> str:
    given = " ".join(name for name, is_given in named.items() if is_given)
    return f' class="{given}"' if given else ""


def _figure(part: Figure) -> str:
    svg = part.svg.replace("<svg", f'<svg role="img" aria-label="{escape(part.caption)}"', 1)
    return f"<figure{_classes(tall=part.tall)}>\n{svg}\n<figcaption>{escape(part.caption)}</figcaption>\n</figure>"


def _command(part: Command) -> str:
    return f'<pre class="command"><code>{escape(part.text)}</code></pre>'


def _lines(part: Lines) -> str:
    return f'<pre class="lines"><code>{escape(part.text)}</code></pre>'


_RENDERERS: dict[type, Callable[..., str]] = {
    Paragraph: _paragraph,
    Verdict: _verdict,
    Table: _table,
    Figure: _figure,
    Command: _command,
    Lines: _lines,
}

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1b1b1b; font: 15px/1.5 system-ui, "Liberation Sans", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.6rem; border-bottom: 1px solid #d0d0d0; padding-bottom: 0.2rem; }
p { max-width: 46rem; }
p.verdict { display: inline-block; margin: 0 0 0.8rem; padding: 0.3rem 0.9rem; border: 3px solid; font-size: 1.2rem;
  font-weight: 600; }
p.passed { color: #00664e; border-style: solid; }
p.failed { color: #b3261e; border-style: double; }
a { color: #0b57a4; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #4a4a4a; padding-bottom: 0.4rem; max-width: 46rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
th:first-child { text-align: left; overflow-wrap: break-word; }
thead th { border-bottom: 2px solid #8a8a8a; vertical-align: bottom; }
tbody th { font-weight: normal; }
th.words, td.words { text-align: left; }
td.whole { white-space: nowrap; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: #4a4a4a; font-size: 0.87rem; max-width: 46rem; }
pre.command { background: #f4f5f7; border-left: 3px solid #0b57a4; padding: 0.5rem 0.8rem; margin: 0.6rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; }
pre.command code::before { content: "$ "; color: #6a6a6a; }
pre.lines { background: #f4f5f7; padding: 0.5rem 0.8rem; margin: 0.6rem 0; font-size: 0.85rem; overflow-x: auto; }
@page { size: A4; margin: 15mm; }
@media print {
  body { font-size: 9.5pt; }
  table { font-size: 8pt; line-height: 1.3; margin: 0.6rem 0; }
  th, td { padding: 0.1rem 0.4rem; }
  h2 { margin-top: 1.2rem; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  figure, table, tr, pre { break-inside: avoid; }
  figure { margin: 0.6rem 0; }
  figure svg { max-height: 125mm; }
  figure.tall svg { max-height: 235mm; }
  caption, figcaption { font-size: 8.5pt; }
  h2 { break-after: avoid; }
  .wide { overflow: visible; }
  thead { display: table-header-group; }
}
"""
