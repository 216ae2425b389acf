"""Film back millimetres and inches against pixels: the numbers an artist would type into Maya."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_shared.errors import MegasamError
from megasam_shared.film_back import (
    FilmBack,
    FilmFit,
    PlateCamera,
    film_back_from_plate,
    film_back_mm_from_lens,
    focal_px_from_mm,
    plate_from_film_back,
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


def test_offset_frustum_sees_the_point_where_the_pixels_say():
    """Independent check: Maya's frustum edges are (+-aperture / 2 + offset) / focal length."""
    camera = PlateCamera(1280, 720, 1100, 1100, 700, 330)
    film = film_back_from_plate(camera, 36)
    point = (0.3, -0.2, -2.0)  # right of, below and in front of a Maya camera
    left = -film.horizontal_aperture_in / 2 + film.horizontal_offset_in
    top = film.vertical_aperture_in / 2 + film.vertical_offset_in
    on_film_x = point[0] / -point[2] * film.focal_mm / 25.4
    on_film_y = point[1] / -point[2] * film.focal_mm / 25.4
    column = (on_film_x - left) / film.horizontal_aperture_in * camera.width
    row = (top - on_film_y) / film.vertical_aperture_in * camera.height
    assert column == pytest.approx(1100 * 0.15 + 700)
    assert row == pytest.approx(1100 * 0.10 + 330)


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


@given(cameras, st.floats(1, 100), st.sampled_from(FilmFit))
def test_pixels_to_film_and_back_whatever_the_film_fit(camera, film_back_mm, film_fit):
    film = film_back_from_plate(camera, film_back_mm)
    back = plate_from_film_back(film, camera.width, camera.height, film_fit)
    assert (back.width, back.height) == (camera.width, camera.height)
    for name in ("fx", "fy", "cx", "cy"):
        assert getattr(back, name) == pytest.approx(getattr(camera, name), rel=1e-9, abs=1e-7)


@pytest.mark.parametrize(
    ("film_fit", "fits_width"),
    [
        (FilmFit.HORIZONTAL, True),
        (FilmFit.VERTICAL, False),
        (FilmFit.FILL, True),  # the wide picture lies inside the squarer film
        (FilmFit.OVERSCAN, False),
    ],
)
def test_film_fit_of_a_squarer_film(film_fit, fits_width):
    """Film 1.0 x 0.75 inches, picture 16:9, 25.4 mm lens: fx is W per width seen in inches."""
    film = FilmBack(25.4, 1.0, 0.75, 0.1, 0.1)
    camera = plate_from_film_back(film, 1600, 900, film_fit)
    seen_width = 1.0 if fits_width else 0.75 * 16 / 9
    seen_height = seen_width * 9 / 16
    assert camera.fx == camera.fy == pytest.approx(1600 / seen_width)
    assert camera.cx == pytest.approx(1600 * (0.5 - 0.1 / seen_width))
    assert camera.cy == pytest.approx(900 * (0.5 + 0.1 / seen_height))


def test_film_fit_of_a_wider_film_is_the_other_way_round():
    film = FilmBack(25.4, 2.0, 0.75)
    assert plate_from_film_back(film, 1600, 900, FilmFit.FILL).fx == pytest.approx(1200)
    assert plate_from_film_back(film, 1600, 900, FilmFit.OVERSCAN).fx == pytest.approx(800)


def test_anamorphic_pixels():
    film = film_back_from_plate(PlateCamera(1000, 1000, 500, 1000, 500, 500), 20)
    assert film.pixel_aspect == 2
    assert film.vertical_aperture_in == pytest.approx(film.horizontal_aperture_in / 2)


def test_resizing_scales_x_and_y_each_by_its_own_factor():
    camera = PlateCamera(512, 384, 400, 400, 256, 192).at_resolution(1920, 1080)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (1500, 1125, 960, 540)


def test_snapping_takes_only_what_a_solver_cannot_tell():
    near = PlateCamera(1280, 720, 1000, 1000.8, 640.4, 359.7).snapped()
    assert (near.fx, near.fy, near.cx, near.cy) == (1000.4, 1000.4, 640, 360)
    assert film_back_from_plate(near, 36).horizontal_offset_in == 0
    off = PlateCamera(1280, 720, 1000, 1002, 640.6, 350)
    assert off.snapped() == off


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
