"""Movies: what recorders and editors really write."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from megasam_server.media.movie_writer import write_movie
from megasam_server.media.open_plate import open_plate
from megasam_shared.errors import MegasamError

from tests.server.media.clips import corner, encode_movie, picture, pictures

needs_display_matrix = pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"),
    reason="this PyAV cannot write a display matrix",
)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def codes(plate) -> list[str]:
    return [notice.code for notice in plate.info.warnings]


@pytest.mark.parametrize("size", [(128, 96), (129, 97), (96, 160), (127, 96)])
def test_written_movie_comes_back(tmp_path, size):
    path = tmp_path / "clip.mp4"
    write_movie(path, pictures(12, *size), 24)
    plate = open_plate(path)
    assert (plate.info.width, plate.info.height) == size
    assert plate.info.kind == "movie" and plate.info.name == "clip"
    assert plate.info.files == ["clip.mp4"] and plate.info.missing == []
    assert plate.info.frame_numbers == list(range(1, 13))
    assert plate.info.fps == pytest.approx(24)
    assert plate.info.times == pytest.approx([i / 24 for i in range(12)], abs=1e-4)
    assert plate.info.warnings == []
    for index, frame in enumerate(plate):
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        assert difference(frame, picture(index, *size)) < 4
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_writer_leaves_nothing_after_an_error(tmp_path):
    def broken():
        yield picture(0)
        raise RuntimeError("the renderer stopped")

    with pytest.raises(RuntimeError):
        write_movie(tmp_path / "clip.mp4", broken(), 24)
    with pytest.raises(MegasamError) as caught:
        write_movie(tmp_path / "clip.mp4", [], 24)
    assert caught.value.code == "no_frames"
    assert list(tmp_path.iterdir()) == []


def test_ntsc_rate_is_exact(tmp_path):
    write_movie(tmp_path / "clip.mp4", pictures(5), 24000 / 1001)
    assert open_plate(tmp_path / "clip.mp4").info.fps == pytest.approx(24000 / 1001, rel=1e-9)


def test_range_is_the_same_frames_as_in_the_whole(tmp_path):
    path = encode_movie(
        tmp_path / "clip.mp4", pictures(60), codec_options={"g": "12", "bf": "3", "preset": "fast"}
    )
    whole = list(open_plate(path))
    part = open_plate(path, 31, 40)
    assert part.info.frame_numbers == list(range(31, 41))
    assert part.info.times[0] == 0.0
    frames = list(part)
    assert len(frames) == 10
    for index, frame in enumerate(frames):
        assert np.array_equal(frame, whole[30 + index])
    assert len(list(part)) == 10  # iterating twice works


@needs_display_matrix
@pytest.mark.parametrize(
    ("rotation", "hflip", "expected", "size"),
    [
        (90, False, "bottom left", (96, 128)),
        (180, False, "bottom right", (128, 96)),
        (270, False, "top right", (96, 128)),
        (0, True, "top right", (128, 96)),
    ],
)
def test_display_matrix_is_applied(tmp_path, rotation, hflip, expected, size):
    path = encode_movie(tmp_path / "phone.mp4", pictures(4), rotation=rotation, hflip=hflip)
    plate = open_plate(path)
    assert (plate.info.width, plate.info.height) == size
    frame = next(iter(plate))
    assert frame.shape == (size[1], size[0], 3)
    assert corner(frame) == expected
    if not hflip:
        assert difference(frame, np.rot90(picture(0), rotation // 90)) < 5


def test_variable_frame_rate_keeps_real_times(tmp_path):
    ticks = [0, 33, 66, 120, 133, 166, 250, 266, 300, 333]
    path = encode_movie(tmp_path / "vfr.mp4", pictures(10), pts=ticks, time_base=Fraction(1, 1000))
    plate = open_plate(path)
    assert plate.info.times == pytest.approx([t / 1000 for t in ticks], abs=1e-3)
    assert plate.info.fps == pytest.approx(9 / 0.333, rel=1e-2)
    assert codes(plate) == ["variable_frame_rate"]
    assert len(list(plate)) == 10
    assert open_plate(path, 4, 6).info.times == pytest.approx([0, 0.013, 0.046], abs=1e-3)


def test_matroska_rounds_times_but_is_not_variable(tmp_path):
    path = encode_movie(tmp_path / "clip.mkv", pictures(30))
    plate = open_plate(path)
    assert plate.info.fps == pytest.approx(24, rel=1e-3) and codes(plate) == []
    assert len(list(plate)) == 30


def test_non_square_pixels_are_stretched_and_told(tmp_path):
    path = encode_movie(tmp_path / "pal.mp4", pictures(3), sample_aspect=Fraction(3, 2))
    plate = open_plate(path)
    assert (plate.info.width, plate.info.height) == (192, 96)
    assert codes(plate) == ["non_square_pixels"]
    assert next(iter(plate)).shape == (96, 192, 3)


def test_interlaced_is_told(tmp_path):
    path = encode_movie(
        tmp_path / "field.mp4",
        pictures(4),
        codec_options={"x264-params": "interlaced=1:tff=1"},
    )
    assert codes(open_plate(path)) == ["interlaced"]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("ten_bit.mp4", "libx264", "yuv420p10le"),
        ("ten_bit.mov", "prores_ks", "yuv422p10le"),
        ("alpha.mov", "prores_ks", "yuva444p10le"),
        ("dnx.mxf", "mpeg2video", "yuv420p"),
        ("old.avi", "mpeg4", "yuv420p"),
        ("order.avi", "libx264", "yuv420p"),
        ("web.webm", "libvpx", "yuv420p"),
        ("cam.mts", "libx264", "yuv420p"),
    ],
)
def test_formats(tmp_path, name, codec, pixel_format):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = tmp_path / name
    if name == "cam.mts":
        encode_movie(tmp_path / "cam.ts", pictures(10), codec=codec).rename(path)
    else:
        encode_movie(path, pictures(10), codec=codec, pixel_format=pixel_format)
    plate = open_plate(path)
    frames = list(plate)
    assert len(frames) == plate.info.num_frames == 10
    assert plate.info.fps == pytest.approx(24, rel=1e-3)
    for index, frame in enumerate(frames):
        assert frame.shape == (96, 128, 3)
        assert difference(frame, picture(index)) < 12


def test_transparent_movie_keeps_its_colours(tmp_path):
    frames = [np.dstack([picture(i), np.full((96, 128), 40, np.uint8)]) for i in range(3)]
    path = encode_movie(
        tmp_path / "alpha.mov", frames, codec="qtrle", pixel_format="argb", source_format="rgba"
    )
    for index, frame in enumerate(open_plate(path)):
        assert np.array_equal(frame, picture(index))


def error_of(path, *args, **kwargs) -> MegasamError:
    with pytest.raises(MegasamError) as caught:
        list(open_plate(path, *args, **kwargs))
    return caught.value


def test_mp4_without_index(tmp_path):
    path = tmp_path / "clip.mp4"
    write_movie(path, pictures(20), 24)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = error_of(path)
    assert error.code == "truncated_movie"
    assert "moov" in error.message and error.hint


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.995])
def test_cut_off_mp4_with_index_at_the_front(tmp_path, keep):
    path = encode_movie(
        tmp_path / "clip.mp4",
        pictures(40),
        codec_options={"g": "10"},
        container_options={"movflags": "faststart"},
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    error = error_of(path)
    assert error.code == "truncated_movie"
    assert "of the 40 frames" in error.message
    readable = int(error.message.split(": ")[1].split()[0])
    assert 0 < readable < 40


def test_cut_off_matroska(tmp_path):
    path = encode_movie(tmp_path / "clip.mkv", pictures(48), codec_options={"g": "10"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert error_of(path).code == "truncated_movie"


def test_damaged_in_the_middle(tmp_path):
    path = encode_movie(
        tmp_path / "clip.mp4",
        pictures(30),
        codec_options={"g": "1"},
        container_options={"movflags": "faststart"},
    )
    data = bytearray(path.read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + len(data) // 5] = bytes(len(data) // 5)
    path.write_bytes(data)
    error = error_of(path)
    assert error.code == "damaged_movie"
    assert "of the 30 frames" in error.message


def test_text_named_mp4(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("This is not a movie.\n" * 50)
    error = error_of(path)
    assert error.code == "not_a_movie" and "notes.mp4" in error.message


def test_empty_file(tmp_path):
    (tmp_path / "empty.mov").touch()
    error = error_of(tmp_path / "empty.mov")
    assert error.code == "not_a_movie" and "empty" in error.message


@pytest.mark.parametrize("script", ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXTINF:1,\n{}\n"])
def test_playlists_are_not_followed(tmp_path, script):
    write_movie(tmp_path / "secret.mp4", pictures(4), 24)
    path = tmp_path / "plate.mp4"
    path.write_text(script.format("secret.mp4"))
    assert error_of(path).code == "not_a_movie"


def test_sound_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert error_of(path).code == "not_a_movie"


def test_tiny_movie(tmp_path):
    write_movie(tmp_path / "tiny.mp4", pictures(3, 48, 48), 24)
    error = error_of(tmp_path / "tiny.mp4")
    assert error.code == "plate_too_small" and "48 x 48" in error.message


def test_trimmed_by_an_edit_list(tmp_path):
    """QuickTime trims without encoding again: frames outside the edit are not part of the plate."""
    path = encode_movie(tmp_path / "clip.mp4", pictures(40), codec_options={"g": "10", "bf": "2"})
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12  # after type, version and flags, number of entries
    duration, start = struct.unpack_from(">Ii", data, entry)
    ticks_per_frame = start // 2  # the two frames that B-frames delay the first picture by
    struct.pack_into(">Ii", data, entry, duration // 2, start + 5 * ticks_per_frame)
    path.write_bytes(data)
    plate = open_plate(path)
    frames = list(plate)
    assert len(frames) == plate.info.num_frames == 20 and plate.info.fps == pytest.approx(24)
    for index, frame in enumerate(frames):
        assert difference(frame, picture(5 + index)) < 4
    for index, frame in enumerate(open_plate(path, 3, 6)):
        assert difference(frame, picture(7 + index)) < 4
