"""Reports: one file that needs nothing else, every text escaped, the same bytes for the same arguments."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from edgeaudio.html_page import Command, Figure, Paragraph, Section, Table, render_page
from edgeaudio_runtime.errors import SpecError

HOSTILE = '<script>alert("&")</script>'
SVG = '<svg viewBox="0 0 1 1"><rect width="1" height="1"/></svg>'
VOID = {"meta", "br"}


def page() -> str:
    """Every part, with text that must not become markup."""
    parts = (
        Paragraph(text=HOSTILE),
        Table(columns=("layer", HOSTILE), rows=(("a", "1"), (HOSTILE, "2")), caption=HOSTILE),
        Figure(svg=SVG, caption=HOSTILE),
        Command(text=f"edgeaudio theory {HOSTILE}"),
    )
    return render_page(HOSTILE, [Section(title=HOSTILE, parts=parts)] * 3)


class Balance(HTMLParser):
    """Collects the tags that are left open, and all that were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_text_never_becomes_markup() -> None:
    assert "<script" not in page()
    assert page().count("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;") >= 8


def test_every_element_is_closed_and_none_fetches_anything() -> None:
    parser = Balance()
    parser.feed(page())
    assert not parser.open
    assert not parser.seen & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"(?:src|href)=\"(?!#)|url\((?!#)|@import", page())


def test_tables_and_figures_can_be_read_aloud() -> None:
    assert page().count('<th scope="col">') == 3 * 2
    assert page().count('<th scope="row">') == 3 * 2
    assert page().count("<caption>") == 3
    assert page().count('<svg role="img" aria-label="&lt;script&gt;') == 3


def test_contents_point_to_the_sections() -> None:
    assert re.findall(r'href="#(s\d)"', page()) == re.findall(r'<section id="(s\d)">', page()) == ["s1", "s2", "s3"]
    assert "<nav" not in render_page("short", [Section(title="one", parts=())])


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(SpecError, match=r"rows\[1\] has 1 cells, must have 2; give one for each column"):
        Table(columns=("a", "b"), rows=(("1", "2"), ("3",)), caption="")


def test_a_figure_that_is_no_svg_is_refused() -> None:
    with pytest.raises(SpecError, match=r"svg='<img>' must begin with '<svg'; draw it with edgeaudio.plots"):
        Figure(svg="<img>", caption="")
