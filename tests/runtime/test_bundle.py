"""A bundle is checked from end to end before anything of it is used, and never leads out of itself."""

import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime import bundle_zip
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import BundleError, EdgeAudioError, EngineError
from edgeaudio_runtime.native import load_library
from edgeaudio_runtime.stream import AudioStream


def pack(bundle: Path, target: Path, **kwargs: Any) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, **kwargs) as archive:
        for path in sorted(bundle.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(bundle).as_posix())
    return target


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_directory_and_its_zip_say_the_same(keyword_bundle: Path, tmp_path: Path) -> None:
    directory, packed = open_bundle(keyword_bundle), open_bundle(str(pack(keyword_bundle, tmp_path / "b.zip")))
    assert packed.manifest == directory.manifest
    assert packed.detector_config == directory.detector_config
    assert packed.labels == ("_silence_", "_unknown_", "low", "high")
    assert packed.background_labels == ("_silence_", "_unknown_")
    codes = directory.golden.codes
    run = packed.program("numpy").session().run(codes)
    np.testing.assert_array_equal(run, directory.golden.logits)
    assert list(tmp_path.iterdir()) == [tmp_path / "b.zip"], "a zip is read without unpacking"


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle '.*nowhere' does not exist; pass a bundle directory or its \.zip"):
        open_bundle(tmp_path / "nowhere")


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK but not really")
    with pytest.raises(BundleError, match=r"is neither a directory nor a \.zip file"):
        open_bundle(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["model.json", "model.bin", "golden/pcm.npy"])
def test_an_altered_artifact_is_refused_when_the_bundle_is_opened(own_bundle: Path, name: str) -> None:
    data = bytearray((own_bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (own_bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"'{name}' was altered: its sha256 is not the manifest's"):
        open_bundle(own_bundle)


def test_an_artifact_altered_after_opening_is_refused_when_used(own_bundle: Path) -> None:
    bundle = open_bundle(own_bundle)
    (own_bundle / "model.bin").write_bytes(bytes((own_bundle / "model.bin").stat().st_size))
    with pytest.raises(BundleError, match="was altered"):
        bundle.program("numpy")


def test_a_shortened_artifact_is_refused(own_bundle: Path) -> None:
    data = (own_bundle / "model.bin").read_bytes()
    (own_bundle / "model.bin").write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"'model.bin' has {len(data) - 1} bytes, the manifest says {len(data)}"):
        open_bundle(own_bundle)


@pytest.mark.parametrize("name", ["manifest.json", "model.bin"])
def test_a_missing_file_is_named(own_bundle: Path, name: str) -> None:
    (own_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"bundle lacks '{name}'"):
        open_bundle(own_bundle)


def test_a_newer_schema_is_refused_by_name(own_bundle: Path) -> None:
    edit_json(own_bundle / "manifest.json", lambda m: m.update(schema_version=7))
    with pytest.raises(BundleError, match=r"schema_version=7 is newer than 3.*pip install --upgrade edgeaudio-runtime"):
        open_bundle(own_bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": NaN}', "\ufeff{}", "[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(own_bundle: Path, text: str) -> None:
    (own_bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json (is not JSON|holds a JSON list)"):
        open_bundle(own_bundle)


def test_bytes_that_are_no_text_are_refused(own_bundle: Path) -> None:
    (own_bundle / "manifest.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(BundleError, match=r"manifest\.json is not JSON"):
        open_bundle(own_bundle)


def test_an_absurdly_large_manifest_is_not_parsed(own_bundle: Path) -> None:
    (own_bundle / "manifest.json").write_bytes(b" " * (5 * 1024 * 1024))
    with pytest.raises(BundleError, match=r"'manifest\.json' is larger than 4194304 bytes"):
        open_bundle(own_bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "golden/../../secret", "a\\..\\b"])
def test_a_manifest_cannot_name_a_file_outside(own_bundle: Path, path: str) -> None:
    (own_bundle.parent / "secret").write_text("x")
    edit_json(own_bundle / "manifest.json", lambda m: m["artifacts"][0].update(path=path))
    with pytest.raises(BundleError, match=r"must be relative, without '\.\.'"):
        open_bundle(own_bundle)


def test_a_link_out_of_the_bundle_is_refused(own_bundle: Path) -> None:
    outside = own_bundle.parent / "model.bin"
    (own_bundle / "model.bin").rename(outside)
    (own_bundle / "model.bin").symlink_to(outside)
    with pytest.raises(BundleError, match=r"'model.bin' leads out of the bundle, to "):
        open_bundle(own_bundle)


def test_a_link_inside_the_bundle_is_followed(own_bundle: Path) -> None:
    (own_bundle / "model.bin").rename(own_bundle / "real.bin")
    (own_bundle / "model.bin").symlink_to("real.bin")
    assert open_bundle(own_bundle).program("numpy").engine == "numpy"


def test_a_bundle_reached_through_a_link_is_opened(own_bundle: Path) -> None:
    link = own_bundle.parent / "latest"
    link.symlink_to(own_bundle, target_is_directory=True)
    assert open_bundle(link).name == "bands"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_in_the_bundle_does_not_hang_the_reader(own_bundle: Path) -> None:
    (own_bundle / "model.bin").unlink()
    os.mkfifo(own_bundle / "model.bin")
    with pytest.raises(BundleError, match=r"'model\.bin' of the bundle is no regular file"):
        open_bundle(own_bundle)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a\\evil", "C:evil"])
def test_a_zip_with_a_name_that_leads_out_is_refused(own_bundle: Path, tmp_path: Path, name: str) -> None:
    packed = pack(own_bundle, tmp_path / "b.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(BundleError, match="must be relative"):
        open_bundle(packed)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused(own_bundle: Path, tmp_path: Path) -> None:
    packed = pack(own_bundle, tmp_path / "b.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("manifest.json", b"{}")
    with pytest.raises(BundleError, match=r"zip has 'manifest\.json' more than once"):
        open_bundle(packed)


def test_a_zip_with_a_symbolic_link_is_refused(own_bundle: Path, tmp_path: Path) -> None:
    packed = pack(own_bundle, tmp_path / "b.zip")
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(BundleError, match="zip entry 'link' is a symbolic link"):
        open_bundle(packed)


def test_a_zip_bomb_stops_at_the_limit(own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeaudio_runtime.bundle.MAX_FILE_BYTES", 1000)
    (own_bundle / "model.bin").write_bytes(bytes(2_000_000))
    packed = pack(own_bundle, tmp_path / "b.zip")
    assert packed.stat().st_size < 200_000
    with pytest.raises(BundleError, match=r"'model\.json' is larger than 1000 bytes"):
        open_bundle(packed)


def test_a_zip_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for index in range(bundle_zip.MAX_FILES + 1):
            archive.writestr(f"f{index}", b"")
    with pytest.raises(BundleError, match="zip has 1001 entries, a bundle has at most 1000"):
        open_bundle(tmp_path / "b.zip")


def test_a_zip_with_a_folder_around_the_files_says_so(own_bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(own_bundle / "manifest.json", "bundle/manifest.json")
    with pytest.raises(BundleError, match="the zip must hold the files, not a folder around them"):
        open_bundle(tmp_path / "b.zip")


def test_damage_inside_a_zip_is_one_error(own_bundle: Path, tmp_path: Path) -> None:
    packed = pack(own_bundle, tmp_path / "b.zip")
    with zipfile.ZipFile(packed) as archive:
        offset = archive.getinfo("manifest.json").header_offset
    data = bytearray(packed.read_bytes())
    name_length, extra_length = struct.unpack("<HH", data[offset + 26 : offset + 30])
    body = offset + 30 + name_length + extra_length
    data[body + 20 : body + 60] = os.urandom(40)
    packed.write_bytes(data)
    with pytest.raises(BundleError, match=r"'manifest\.json' is damaged|manifest"):
        open_bundle(packed)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schema_version": 2}, "detector schema_version=2 must be 1; for a newer one"),
        ({"schema_version": 1, "treshold": 0.5}, "unknown detector fields ['treshold']"),
        ({"schema_version": 1, "threshold": 1.5}, "threshold=1.5 must be a number from 0 to 1"),
        ({"schema_version": 1, "threshold": "high"}, "threshold='high' must be a number"),
        ({"schema_version": 1, "thresholds": {"low": 0.1}}, "release=0.35 must be <= the lowest threshold, 0.1"),
        ({"schema_version": 1, "thresholds": []}, "thresholds=[] must map labels to numbers"),
        ({"threshold": 0.5}, "detector lacks the fields ['schema_version']"),
    ],
)
def test_wrong_detector_settings_are_named(own_bundle: Path, values: dict[str, Any], words: str) -> None:
    (own_bundle / "detector.json").write_text(json.dumps(values))
    with pytest.raises(BundleError) as caught:
        _ = open_bundle(own_bundle).detector_config
    assert words in str(caught.value)


def test_features_that_are_not_those_of_the_hash_are_refused(own_bundle: Path) -> None:
    edit_json(own_bundle / "manifest.json", lambda m: m["features"].update(f_max=7000.0))
    with pytest.raises(BundleError, match=r"features_hash='sha256:.*' must be 'sha256:"):
        open_bundle(own_bundle)


def test_features_this_runtime_does_not_know_are_refused(own_bundle: Path) -> None:
    edit_json(own_bundle / "manifest.json", lambda m: m["features"].update(n_mel=3))
    with pytest.raises(BundleError, match=r"features in manifest\.json: unknown feature fields \['n_mel'\]"):
        open_bundle(own_bundle)


def test_a_network_that_wants_other_features_is_refused(own_bundle: Path) -> None:
    edit_json(own_bundle / "manifest.json", lambda m: m["network"].update(n_features=41))
    with pytest.raises(BundleError, match="n_features=41 must be the features' 40"):
        open_bundle(own_bundle)


def test_a_graph_that_contradicts_the_manifest_is_refused(own_bundle: Path) -> None:
    edit_json(own_bundle / "manifest.json", lambda m: m["network"].update(step_frames=8))
    with pytest.raises(BundleError, match=r"the artifact of engine='numpy' has .*step_frames=4.*manifest says"):
        open_bundle(own_bundle).program("numpy")


def test_an_engine_without_an_artifact_is_refused(keyword_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no artifact for engine='litert'; it has \['numpy'\]"):
        open_bundle(keyword_bundle).program("litert")
    known = r"\['auto', 'native', 'litert', 'onnxruntime', 'numpy'\]"
    with pytest.raises(EngineError, match=f"engine='tvm' must be one of {known}"):
        open_bundle(keyword_bundle).program("tvm")


def test_auto_takes_the_native_engine_where_it_was_built_else_what_is_there(
    keyword_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(keyword_bundle)
    assert bundle.engines() == ("numpy",)
    assert bundle.program().engine == ("numpy" if load_library() is None else "native")
    monkeypatch.setattr("edgeaudio_runtime.engines.native_engine.load_library", lambda: None)
    assert bundle.program().engine == "numpy"
    with pytest.raises(EngineError, match=r"native_front_end.so was not built with this installation; install"):
        bundle.program("native")


def test_settings_of_the_other_task_are_refused(keyword_bundle: Path, ctc_bundle: Path) -> None:
    with pytest.raises(BundleError, match="task='ctc'; only a bundle for 'keyword' has these settings"):
        _ = open_bundle(ctc_bundle).detector_config
    with pytest.raises(BundleError, match="task='keyword'; only a bundle for 'ctc'"):
        _ = open_bundle(keyword_bundle).decoder_config


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{'descr': '<i2', 'fortran_order': False, 'shape': (99999999999,), }", "it must be int16 with 1 axes"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", "it must be int16 with 1 axes"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "it must be int16 with 1 axes"),
        (b"{'descr': '<i2', 'fortran_order': False, 'shape': (2644 40,), }", "is no .npy file"),
        (b"not a header", "is no .npy file"),
    ],
)
def test_a_hostile_array_is_refused_without_allocating_it(own_bundle: Path, header: bytes, words: str) -> None:
    import hashlib

    padded = header + b" " * (117 - len(header)) + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(8)
    (own_bundle / "golden/pcm.npy").write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        entry = next(a for a in manifest["artifacts"] if a["path"] == "golden/pcm.npy")
        entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    edit_json(own_bundle / "manifest.json", change)
    with pytest.raises(BundleError, match=r"golden/pcm\.npy") as caught:
        _ = open_bundle(own_bundle).golden
    assert words in str(caught.value)


def test_parity_is_handed_out_as_it_is(own_bundle: Path) -> None:
    assert open_bundle(own_bundle).parity is None
    (own_bundle / "parity.json").write_text('{"passed": true}')
    assert open_bundle(own_bundle).parity == {"passed": True}


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON document but its root."""
    entries: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    found = [path] if path else []
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


@settings(max_examples=80)
@given(data=st.data())
def test_whatever_stands_in_a_manifest_is_used_or_refused_in_one_line(own_bundle: Path, data: st.DataObject) -> None:
    original = (own_bundle / "manifest.json").read_text()
    manifest = json.loads(original)
    path = data.draw(st.sampled_from(places(manifest)))
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(
        st.sampled_from([None, -1, 0, 1, 2.5, 1e308, 10**30, "x", "", [], [1], {}, {"a": 1}, True, "../x"])
    )
    try:
        (own_bundle / "manifest.json").write_text(json.dumps(manifest))
        AudioStream(open_bundle(own_bundle), engine="numpy").process(np.zeros(3000, dtype=np.int16))
    except EdgeAudioError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right; only another exception is not)
    finally:
        (own_bundle / "manifest.json").write_text(original)
