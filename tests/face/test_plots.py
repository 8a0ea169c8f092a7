"""Plots: inline SVG that is the same every time and takes nothing from its surroundings."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'edgeaudio[plots]'")

from edgeaudio.plots import Series, bar_plot, histogram_plot, line_plot
from edgeaudio_runtime.errors import SpecError

TEXT = "{http://www.w3.org/2000/svg}text"


def lines() -> str:
    """Two lines, one of them with a name that is no markup and no formula."""
    series = [
        Series(name="b & <c> $x_1$", x=[1, 2, 3], y=[1, 10, 100], points=True),
        Series(name="other", x=[1, 2, 3], y=[2, 4, 6], style="--"),
    ]
    return line_plot(series, x_label="bits", y_label="dB", title="Title", log_x=True, log_y=True)


def histogram() -> str:
    """Four bins, one of them empty, with a clip range."""
    return histogram_plot([-2, -1, 0, 1, 2], [1, 9, 0, 3], x_label="weight", markers={"clip": (-1.5, 1.5)}, log_y=True)


def bars() -> str:
    """Two groups."""
    return bar_plot(["body.0", "body.1"], {"first": [1, 2], "second": [3, 4]}, x_label="dB")


def texts(svg: str) -> list[str]:
    """Text elements of a drawing."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(TEXT)]


@pytest.mark.parametrize("draw", [lines, histogram, bars])
def test_a_plot_is_the_same_every_time(draw: Callable[[], str]) -> None:
    assert draw() == draw()


@pytest.mark.parametrize("draw", [lines, histogram, bars])
def test_a_plot_takes_nothing_from_the_settings_of_the_user(
    draw: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    expected = draw()
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    assert draw() == expected


def test_plots_share_no_identifier_and_every_reference_is_met() -> None:
    page = lines() + histogram() + bars()
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page)) == set(identifiers)


def test_a_plot_carries_no_metadata_and_reads_as_text() -> None:
    assert "<metadata" not in lines()
    assert not re.search(r"20\d\d-\d\d", lines())
    assert {"b & <c> $x_1$", "other", "bits", "dB", "Title"} <= set(texts(lines()))
    assert {"clip", "weight", "count", "1", "10"} <= set(texts(histogram()))
    assert {"body.0", "body.1", "first", "second"} <= set(texts(bars()))


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match="series 'a' has 2 x and 1 y; give one y for each x"):
        Series(name="a", x=[1, 2], y=[1])
    with pytest.raises(SpecError, match="edges has 2 values and counts 2; give one more edge than counts"):
        histogram_plot([0, 1], [1, 2], x_label="x")
    with pytest.raises(SpecError, match="group 'g' has 1 values for 2 labels; give one for each"):
        bar_plot(["a", "b"], {"g": [1]}, x_label="x")
