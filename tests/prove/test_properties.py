"""A share of the properties that `make prove` holds 10,000 times each."""

from __future__ import annotations

import pytest

from edgeaudio_runtime.native import load_library
from tests.prove import properties

NUMPY = properties.Setting(task="keyword", engine="numpy", dtype="int16", front_end="numpy")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> properties.Subjects:
    return properties.Subjects(tmp_path_factory.mktemp("bundles"))


@pytest.mark.parametrize("name", sorted(properties.PROPERTIES))
@pytest.mark.parametrize("engine", properties.ENGINES)
def test_a_stream_hears_the_same_whatever_is_done_around_it(
    subjects: properties.Subjects, name: str, engine: str
) -> None:
    for seed, setting in enumerate(properties.SETTINGS):
        needs_library = "native" in (setting.engine, setting.front_end)
        if setting.engine == engine and (load_library() is not None or not needs_library):
            properties.run_case(name, subjects.subject(setting), seed)


def test_the_recordings_hold_something_to_hear(subjects: properties.Subjects) -> None:
    subject = subjects.subject(NUMPY)
    labels = [[line.split("label='")[1].split("'")[0] for line in events] for events, _ in subject.expected]
    assert labels == [["low"], ["high"], ["low", "high"], []]


def test_a_case_that_does_not_hold_is_named(subjects: properties.Subjects) -> None:
    subject = subjects.subject(NUMPY)
    right = subject.expected
    subject.expected = [((), b"")] * 4
    try:
        with pytest.raises(AssertionError, match="chunking, seed 3, keyword, numpy, int16, numpy front end: keyword"):
            properties.run_case("chunking", subject, 3)
    finally:
        subject.expected = right
