"""The feature specification: relations between fields, frame counts, JSON and hash."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MelSpec
from edgeaudio_runtime.presets import LOG_MEL, PRESETS, WINDOWED_PRESETS

EVERY_SPEC = {**PRESETS, **{f"{name} (windowed)": spec for name, spec in WINDOWED_PRESETS.items()}}


@pytest.mark.parametrize("name", EVERY_SPEC)
def test_a_specification_survives_its_json_form(name: str) -> None:
    assert FeatureSpec.from_dict(EVERY_SPEC[name].to_dict()) == EVERY_SPEC[name]


def test_the_json_form_names_its_kind_first() -> None:
    assert next(iter(LOG_MEL.to_dict().items())) == ("kind", "mel")


def test_all_presets_have_different_hashes() -> None:
    assert len({spec.hash for spec in EVERY_SPEC.values()}) == len(EVERY_SPEC)


def test_the_hash_of_the_house_default_never_changes() -> None:
    # sha256 of the canonical JSON written out by hand; bundles in the field carry it.
    import hashlib

    canonical = (
        '{"fields":{"affine_offset":6.5,"affine_scale":0.2,"f_max":7600.0,"f_min":20.0,"hop_length":160,"n_fft":512,'
        '"n_mels":40,"sample_rate":16000,"win_length":400},"kind":"mel","version":1}'
    )
    assert LOG_MEL.hash == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def test_a_new_field_with_a_default_keeps_old_hashes() -> None:
    class NewerMelSpec(MelSpec):
        dither: float = 0.0

    values = {name: value for name, value in LOG_MEL.to_dict().items() if name != "kind"}
    assert NewerMelSpec(**values).hash == LOG_MEL.hash
    assert NewerMelSpec(**values, dither=1.0).hash != LOG_MEL.hash


def test_whole_numbers_and_floats_hash_alike() -> None:
    assert dataclasses.replace(LOG_MEL, f_min=20).hash == LOG_MEL.hash


def test_every_public_name_of_the_class_is_a_field_a_property_or_a_method() -> None:
    # A field without annotation would silently be no field and vanish from the JSON.
    fields = {field.name for field in dataclasses.fields(MelSpec)}
    plain = [n for n, v in vars(MelSpec).items() if not n.startswith("_") and isinstance(v, (int, float, str, tuple))]
    assert set(plain) - fields == {"kind"}


@given(n_samples=st.integers(0, 5000), offset=st.integers(-399, 500), hop=st.integers(1, 400))
def test_frame_counts_equal_counting_frame_by_frame(n_samples: int, offset: int, hop: int) -> None:
    spec = dataclasses.replace(LOG_MEL, first_offset=offset, hop_length=hop)
    starts = range(offset, 6000, hop)
    assert spec.n_frames(n_samples) == (sum(start < n_samples for start in starts) if n_samples else 0)
    assert spec.n_ready_frames(n_samples) == sum(start + 400 <= n_samples for start in starts)


def test_one_second_at_a_hop_of_ten_milliseconds_has_one_hundred_frames() -> None:
    assert (LOG_MEL.n_frames(16000), LOG_MEL.n_ready_frames(16000), LOG_MEL.n_features) == (100, 98, 40)


def test_windowed_originals_are_not_streamable_and_presets_are() -> None:
    assert all(spec.streamable for spec in PRESETS.values())
    assert not any(spec.streamable for spec in WINDOWED_PRESETS.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_mel": 40}, r"unknown feature fields \['n_mel'\]; this runtime knows \['affine_offset', "),
        ({"kind": "pcm8"}, r"unknown feature kind 'pcm8'; this runtime knows \['mel', 'microfrontend', 'pcm'\]"),
        ({"kind": ["mel"]}, r"unknown feature kind \['mel'\]"),
        ({"n_fft": 256}, "n_fft=256 must be >= win_length=400; 512 is the next power of two"),
        ({"n_fft": 513}, "n_fft=513 must be even; use 514"),
        ({"f_max": 9000.0}, r"f_max=9000.0 must satisfy 0 <= f_min < f_max <= 8000.0 Hz, half of sample_rate=16000"),
        ({"f_min": 7600}, "f_min=7600.0 and f_max=7600.0 must satisfy"),
        ({"hop_length": 0}, "hop_length=0 must be >= 1"),
        ({"hop_length": 401}, "hop_length=401 must be <= win_length=400, or samples are lost"),
        ({"hop_length": 160.0}, "hop_length=160.0 must be of type int"),
        ({"n_mels": True}, "n_mels=True must be of type int"),
        ({"n_mels": 0}, "n_mels=0 must be >= 1"),
        ({"log_floor": "1e-6"}, "log_floor='1e-6' must be a finite number"),
        ({"clamp_min": math.inf}, "clamp_min=inf must be a finite number or None"),
        ({"clamp_min": 1.0, "clamp_max": 0.0}, "clamp_min=1.0 must be < clamp_max=0.0"),
        ({"log_floor": 0.0}, "log_floor=0.0 must be >= 1e-37 .* 1e-06 is the house floor"),
        ({"first_offset": -400}, "first_offset=-400 must be > -win_length=-400"),
        ({"window": "hanning"}, r"window='hanning' must be one of \['hann', 'hamming', 'povey', 'rectangular'\]"),
        ({"power": 3}, r"power=3 must be 1 \(magnitude\) or 2 \(power\)"),
        ({"preemphasis": 1.0}, "preemphasis=1.0 must be >= 0 and < 1; 0.97 is usual, 0 is none"),
        ({"n_dct": 41}, r"n_dct=41 must be between 0 \(no DCT\) and n_mels=40"),
        ({"input_scale": 0}, "input_scale=0 must not be 0"),
        ({"utterance": "dynamic_range"}, "utterance_range=0.0 must be > 0 with utterance='dynamic_range'"),
        ({"utterance_range": 80.0}, "utterance_range=80.0 must be > 0 .* and 0 without; utterance='none'"),
        ({"win_length": 1, "hop_length": 1}, "win_length=1 must be >= 2 for window='hann'"),
    ],
)
def test_a_broken_specification_is_refused_by_name(change: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        FeatureSpec.from_dict({**LOG_MEL.to_dict(), **change})


def test_a_missing_field_is_refused_by_name() -> None:
    values = LOG_MEL.to_dict()
    del values["hop_length"], values["f_min"]
    with pytest.raises(SpecError, match=r"missing feature fields \['f_min', 'hop_length'\]; kind='mel' has no default"):
        FeatureSpec.from_dict(values)


@pytest.mark.parametrize("name", ["sample_rate", "f_max"])
def test_an_integer_that_no_float_holds_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=rf"{name} is an integer beyond 2\*\*53; give a number"):
        FeatureSpec.from_dict({**LOG_MEL.to_dict(), name: 10**400})
