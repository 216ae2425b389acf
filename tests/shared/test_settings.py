"""Settings: what is accepted, what is refused and with which words, and how presets behave."""

import json
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_shared.errors import MegasamError
from megasam_shared.settings import FIELDS, PRESETS, SolveSettings

REFUSED = [
    # field, value, code, what the allowed range must say
    ("coordinate_system", "zup", "setting_unknown_choice", "maya, blender, opencv"),
    ("quality_preset", "Fast", "setting_unknown_choice", "fast, balanced, best"),
    ("engine", "droid", "setting_unknown_choice", "auto, megasam, classical"),
    ("fallback_policy", "", "setting_unknown_choice", "lower, fail"),
    ("engine", None, "setting_wrong_type", "auto"),
    ("engine", 3, "setting_wrong_type", "auto"),
    ("focal_length_px", -1.0, "setting_out_of_range", "0 (estimate) or 1 to 1000000 px"),
    ("focal_length_px", 0.5, "setting_out_of_range", "0 (estimate) or 1 to 1000000 px"),
    ("focal_length_px", math.nan, "setting_out_of_range", "1 to 1000000"),
    ("focal_length_px", math.inf, "setting_out_of_range", "1 to 1000000"),
    ("focal_length_px", 10**400, "setting_out_of_range", "1 to 1000000"),
    ("focal_length_px", "1200", "setting_wrong_type", "1 to 1000000"),
    ("focal_length_px", True, "setting_wrong_type", "1 to 1000000"),
    ("optimize_focal", 1, "setting_wrong_type", "true or false"),
    ("run_cvd", "yes", "setting_wrong_type", "true or false"),
    ("depth_chunk_size", 0, "setting_out_of_range", "1 to 16 frames"),
    ("depth_chunk_size", 17, "setting_out_of_range", "1 to 16 frames"),
    ("depth_chunk_size", 4.0, "setting_wrong_type", "whole number"),
    ("depth_chunk_size", True, "setting_wrong_type", "whole number"),
    ("flow_chunk_size", 3, "setting_out_of_range", "4 to 16 pairs"),
    ("flow_chunk_size", 0, "setting_out_of_range", "4 to 16 pairs"),
    ("max_keyframes", 95, "setting_out_of_range", "96 to 256"),
    ("max_keyframes", 257, "setting_out_of_range", "96 to 256"),
    ("tracking_resolution", 0, "setting_out_of_range", "160 to 960 px, a multiple of 8"),
    ("tracking_resolution", 244, "setting_out_of_range", "a multiple of 8"),
    ("cvd_resolution", 0.2, "setting_out_of_range", "0.25 to 1"),
    ("cvd_resolution", 1.01, "setting_out_of_range", "0.25 to 1"),
    ("cvd_iterations", 0, "setting_out_of_range", "1 to 10000"),
    ("metric_depth_every", -1, "setting_out_of_range", "0 (skip) or 1 to 1000"),
    ("max_frames", 1, "setting_out_of_range", "2 to 100000"),
    ("first_frame", 1.5, "setting_wrong_type", "whole number"),
    ("model_path", "a\0b", "setting_out_of_range", "NUL"),
    ("model_path", "x" * 5000, "setting_out_of_range", "4096"),
    ("model_path", 7, "setting_wrong_type", "text"),
]


@pytest.mark.parametrize(("name", "value", "code", "allowed"), REFUSED)
def test_a_bad_value_is_refused_by_name_value_and_allowed_range(name, value, code, allowed):
    with pytest.raises(MegasamError) as caught:
        SolveSettings(**{name: value})
    assert caught.value.code == code
    assert name in caught.value.message
    assert repr(value)[:60] in caught.value.message
    assert allowed in caught.value.hint
    with pytest.raises(MegasamError, match=name):
        SolveSettings.from_map({name: value})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"focal_mm": 35}, "film back width"),
        ({"film_back_mm": 36}, "film back width"),
        ({"focal_mm": 35, "film_back_mm": 36, "focal_length_px": 1000}, "given twice"),
        ({"first_frame": 1010, "last_frame": 1009}, "ends before it starts"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, words):
    with pytest.raises(MegasamError, match=words) as caught:
        SolveSettings(**values)
    assert caught.value.code == "setting_conflict"
    assert all(f"{name} = {value}" in caught.value.message for name, value in values.items())


@pytest.mark.parametrize("spec", FIELDS.values(), ids=FIELDS)
def test_the_ends_of_every_range_are_allowed(spec):
    if spec.kind in ("int", "float"):
        for end in (spec.minimum, spec.maximum):
            assert spec.check(end) == end
    if spec.zero_means:
        assert spec.check(0) == 0
    if spec.none_means:
        assert spec.check(None) is None
    for choice in spec.choices:
        assert spec.check(choice) == choice


def test_every_field_says_what_it_is():
    for name, spec in FIELDS.items():
        assert spec.name == name
        assert spec.label and spec.doc.endswith(".") and spec.allowed
        assert (spec.kind == "choice") == bool(spec.choices)
    simple = {name for name, spec in FIELDS.items() if not spec.advanced}
    assert {"coordinate_system", "quality_preset", "focal_length_px", "optimize_focal"} <= simple


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        # depth chunk, metric every, tracking, flow chunk, CVD, CVD resolution, frames (DESIGN 3)
        ("fast", (1, 0, 240, 4, False, 200)),
        ("balanced", (4, 10, 384, 8, True, 500)),
        ("best", (8, 1, 480, 16, True, 1000)),
    ],
)
def test_presets_are_those_of_the_design(preset, expected):
    s = SolveSettings(quality_preset=preset)
    assert (
        s.depth_chunk_size,
        s.metric_depth_every,
        s.tracking_resolution,
        s.flow_chunk_size,
        s.run_cvd,
        s.max_frames,
    ) == expected
    assert s.run_metric_depth is (preset != "fast")
    assert (s.max_keyframes, s.cvd_iterations) == (128, 400)
    if s.run_cvd:
        assert s.cvd_resolution == (1.0 if preset == "best" else 0.5)


def test_balanced_is_the_default_and_naming_a_preset_is_enough():
    assert SolveSettings() == SolveSettings(quality_preset="balanced")
    assert SolveSettings.from_map({"quality_preset": "best"}) == SolveSettings(
        quality_preset="best"
    )
    assert SolveSettings.from_map({"depth_chunk_size": None}) == SolveSettings()


def test_single_values_override_the_preset():
    settings = SolveSettings(quality_preset="best", flow_chunk_size=5)
    assert (settings.flow_chunk_size, settings.depth_chunk_size) == (5, 8)


def test_presets_get_cheaper_downwards():
    vram = [preset.vram_gb for preset in PRESETS.values()]
    assert vram == sorted(vram) and vram[0] == 6 and vram[-1] == 12


def test_focal_length_in_pixels_depends_on_the_plate_only_when_given_in_mm():
    assert SolveSettings().focal_px_at(1920) == 0
    assert not SolveSettings().focal_given
    assert SolveSettings(focal_length_px=1234).focal_px_at(1920) == 1234
    in_mm = SolveSettings(focal_mm=35, film_back_mm=36)
    assert in_mm.focal_given
    assert in_mm.focal_px_at(1920) == pytest.approx(1866.6667, abs=1e-4)
    assert in_mm.focal_px_at(960) == pytest.approx(933.3333, abs=1e-4)


def test_unknown_keys_are_ignored_and_a_list_is_no_map():
    assert SolveSettings.from_map({"from_the_future": 1, 7: 2}) == SolveSettings()
    with pytest.raises(MegasamError) as caught:
        SolveSettings.from_map([("engine", "auto")])
    assert caught.value.code == "setting_wrong_type"


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        SolveSettings().engine = "classical"


def _values(spec):
    if spec.kind == "choice":
        values = st.sampled_from(spec.choices)
    elif spec.kind == "bool":
        values = st.booleans()
    elif spec.kind == "text":
        values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    elif spec.kind == "float":
        values = st.floats(spec.minimum, spec.maximum)
    else:
        step = spec.step or 1
        values = st.integers(spec.minimum // step, spec.maximum // step).map(lambda n: n * step)
    if spec.zero_means:
        values |= st.just(0)
    return values | st.none() if spec.none_means else values


@given(st.fixed_dictionaries({}, optional={n: _values(spec) for n, spec in FIELDS.items()}))
def test_settings_survive_json_and_msgpack(values):
    try:
        settings = SolveSettings.from_map(values)
    except MegasamError as error:
        assert error.code == "setting_conflict"
        return
    over_the_wire = msgpack.unpackb(msgpack.packb(settings.to_map()))
    assert SolveSettings.from_map(over_the_wire) == settings
    assert SolveSettings.from_map(json.loads(json.dumps(settings.to_map()))) == settings
    assert all(getattr(settings, name) is not None for name in PRESETS["fast"].values)
    assert all(getattr(settings, n) == v for n, v in values.items() if v is not None)
