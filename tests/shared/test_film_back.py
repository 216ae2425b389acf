"""Film back millimetres and inches against pixels: the numbers an artist would type into Maya."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_shared.errors import MegasamError
from megasam_shared.film_back import (
    FilmBack,
    PlateCamera,
    film_back_from_plate,
    film_back_mm_from_lens,
    focal_px_from_mm,
)


def test_full_frame_35mm_lens_on_full_hd():
    film = film_back_from_plate(PlateCamera(1920, 1080, 1866.6667, 1866.6667, 960, 540), 36)
    assert film.focal_mm == pytest.approx(35, abs=1e-5)
    assert film.horizontal_aperture_in == pytest.approx(1.41732, abs=1e-5)  # Maya's full frame
    assert film.vertical_aperture_in == pytest.approx(0.79724, abs=1e-5)  # 20.25 mm
    assert (film.horizontal_offset_in, film.vertical_offset_in) == (0.0, 0.0)
    assert film.pixel_aspect == 1
    assert film.maya_attributes()["filmFit"] == 1


def test_principal_point_right_and_below_the_centre():
    """Positive horizontal offset moves the principal point left, positive vertical offset down."""
    film = film_back_from_plate(PlateCamera(1000, 500, 800, 800, 510, 255), 25.4)
    assert film.horizontal_offset_in == pytest.approx(-0.01)
    assert film.vertical_offset_in == pytest.approx(+0.005)


lengths = st.floats(50, 20_000)
cameras = st.builds(
    PlateCamera,
    width=st.integers(16, 8192),
    height=st.integers(16, 8192),
    fx=lengths,
    fy=lengths,
    cx=st.floats(-4000, 12_000),
    cy=st.floats(-4000, 12_000),
)


@given(cameras, st.floats(1, 100))
def test_frustum_sees_points_where_the_pixels_say(camera, film_back_mm):
    """Independent check: Maya's frustum edges are (+-aperture / 2 + offset) / focal length."""
    film = film_back_from_plate(camera, film_back_mm)
    point = (0.3, -0.2, -2.0)  # right of, below and in front of a Maya camera
    left = -film.horizontal_aperture_in / 2 + film.horizontal_offset_in
    top = film.vertical_aperture_in / 2 + film.vertical_offset_in
    on_film_x = point[0] / -point[2] * film.focal_mm / 25.4
    on_film_y = point[1] / -point[2] * film.focal_mm / 25.4
    column = (on_film_x - left) / film.horizontal_aperture_in * camera.width
    row = (top - on_film_y) / film.vertical_aperture_in * camera.height
    assert column == pytest.approx(camera.fx * 0.15 + camera.cx, rel=1e-9, abs=1e-7)
    assert row == pytest.approx(camera.fy * 0.10 + camera.cy, rel=1e-9, abs=1e-7)


def test_anamorphic_pixels():
    film = film_back_from_plate(PlateCamera(1000, 1000, 500, 1000, 500, 500), 20)
    assert film.pixel_aspect == 2
    assert film.vertical_aperture_in == pytest.approx(film.horizontal_aperture_in / 2)


def test_resizing_scales_x_and_y_each_by_its_own_factor():
    camera = PlateCamera(512, 384, 400, 400, 256, 192).at_resolution(1920, 1080)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (1500, 1125, 960, 540)


def test_focal_length_and_film_back_can_each_be_derived_from_the_other():
    assert focal_px_from_mm(50, 25, 1920) == 3840
    assert film_back_mm_from_lens(50, 3840, 1920) == 25


@pytest.mark.parametrize("bad", [0.0, -36.0, math.nan, math.inf])
def test_impossible_film_backs_are_refused_by_name(bad):
    camera = PlateCamera(1920, 1080, 1000, 1000, 960, 540)
    with pytest.raises(MegasamError, match="film_back_mm") as caught:
        film_back_from_plate(camera, bad)
    assert caught.value.code == "film_back_invalid"
    with pytest.raises(MegasamError, match="fx"):
        PlateCamera(1920, 1080, bad, 1000, 960, 540)
    with pytest.raises(MegasamError, match="focal_mm"):
        FilmBack(bad, 1.4, 0.8)
    with pytest.raises(MegasamError, match="fx"):
        film_back_mm_from_lens(35, bad, 1920)
