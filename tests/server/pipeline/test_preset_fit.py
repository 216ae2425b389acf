"""Which preset is taken on a GPU that has so much memory free, and what the artist is told."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from megasam_server.checkpoints.registry import find_checkpoint  # noqa: E402
from megasam_server.checkpoints.selection import Selection  # noqa: E402
from megasam_server.checkpoints.verify import CheckpointStatus  # noqa: E402
from megasam_server.media.plate import PlateInfo  # noqa: E402
from megasam_server.pipeline import preset_fit, run  # noqa: E402
from megasam_server.pipeline.engines import EngineChoice  # noqa: E402
from megasam_server.pipeline.job import SolveJob  # noqa: E402
from megasam_server.pipeline.preset_fit import fitted_to_gpu, needs_of  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402
from megasam_shared.settings import PRESETS, SolveSettings  # noqa: E402

GIB = 2**30


def plate(width: int = 1920, height: int = 1080, count: int = 100) -> PlateInfo:
    numbers = list(range(1, count + 1))
    return PlateInfo("p", "movie", width, height, 24.0, numbers, [0.0] * count, ["p.mp4"], [])


def all_there(settings: SolveSettings) -> Selection:
    """Every checkpoint is there: the small depth networks for Fast, the large for the others."""
    size = "vits" if settings.quality_preset == "fast" else "vitl"
    names = {
        "mono_depth": f"depth_anything_v2_{size}",
        "metric_depth": f"unidepth_v2_{size}",
        "tracking": "megasam",
        "flow": "raft_things",
    }
    return Selection(
        {k: CheckpointStatus(find_checkpoint(n), None, "fits") for k, n in names.items()}
    )


def fitted(monkeypatch, free_gib: float, info: PlateInfo | None = None, **settings):
    monkeypatch.setattr(preset_fit, "select_checkpoints", all_there)
    wanted = SolveSettings(**settings)
    choice = EngineChoice("megasam", "MegaSAM", "Solved", selection=all_there(wanted))
    return fitted_to_gpu(wanted, choice, info or plate(), int(free_gib * GIB))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_the_smallest_card_it_is_meant_for(preset):
    settings = SolveSettings(quality_preset=preset)
    needs = needs_of(settings, all_there(settings), plate())
    assert max(need.wanted for need in needs.values()) < PRESETS[preset].vram_gb * 1e9
    assert {"tracking", "flow", "mono_depth"} <= needs.keys()
    assert ("video_depth" in needs) == settings.run_cvd
    assert all(0 < need.least <= need.wanted for need in needs.values())


def test_what_fits_is_left_alone(monkeypatch):
    settings, choice = fitted(monkeypatch, 12, quality_preset="best")
    assert settings == SolveSettings(quality_preset="best")
    assert choice.status == "Solved"
    assert not choice.notices


@pytest.mark.parametrize(
    ("free", "asked", "taken"),
    [(5, "best", "Balanced"), (3, "best", "Fast"), (2.5, "balanced", "Fast")],
)
def test_the_next_lower_preset_that_fits_is_taken_and_said(monkeypatch, free, asked, taken):
    settings, choice = fitted(monkeypatch, free, quality_preset=asked)
    assert settings == SolveSettings(
        quality_preset=taken.lower(), max_frames=PRESETS[asked].values["max_frames"]
    )
    assert choice.status.startswith(f"⚠ Reduced to {taken} mode")
    assert choice.reduced_to == f"{taken} mode"
    assert choice.selection.chosen == all_there(settings).chosen
    (notice,) = choice.notices
    assert notice.code == "preset_reduced"
    assert f"{free:.1f} GB are free" in notice.message
    assert f"solved as {taken}" in notice.message
    assert notice.hint


def test_what_was_set_singly_stays(monkeypatch):
    settings, _ = fitted(
        monkeypatch, 3, quality_preset="best", cvd_resolution=0.75, metric_depth_every=7
    )
    assert settings.quality_preset == "fast"
    assert settings.cvd_resolution == 0.75
    assert settings.metric_depth_every == 7
    assert settings.tracking_resolution == 240


def test_a_lowest_preset_that_fits_with_less_at_a_time_is_tried(monkeypatch):
    settings = SolveSettings(quality_preset="fast")
    need = needs_of(settings, all_there(settings), plate())["tracking"]
    between = (need.least + need.wanted) / 2 / GIB
    kept, choice = fitted(monkeypatch, between, quality_preset="fast")
    assert kept == settings
    assert choice.status == "Solved"


def test_a_gpu_that_is_too_small_for_anything_is_an_error_before_any_work(monkeypatch):
    with pytest.raises(MegasamError) as error:
        fitted(monkeypatch, 0.5)
    assert error.value.code == "gpu_too_small"
    assert "Camera tracking needs" in error.value.message
    assert "0.5 GB are free" in error.value.message
    assert "classical" in error.value.hint


def test_whoever_wants_no_lower_preset_gets_an_error(monkeypatch):
    with pytest.raises(MegasamError) as error:
        fitted(monkeypatch, 3, quality_preset="best", fallback_policy="fail")
    assert error.value.code == "preset_does_not_fit"
    assert "Best" in error.value.message


def test_needs_grow_with_what_they_depend_on_and_not_with_the_length_of_the_clip():
    def need(stage: str, count: int = 100, **settings) -> int:
        given = SolveSettings(**settings)
        return needs_of(given, all_there(given), plate(count=count))[stage].wanted

    assert need("flow", flow_chunk_size=16) > 1.5 * need("flow", flow_chunk_size=8)
    assert need("tracking", tracking_resolution=480) > 1.2 * need("tracking")
    assert need("mono_depth", depth_chunk_size=8) > 1.2 * need("mono_depth")
    assert need("video_depth", cvd_resolution=1.0) > 2 * need("video_depth")
    for stage in ("mono_depth", "tracking", "flow", "video_depth"):
        assert need(stage, count=1000) == need(stage, count=400)


@pytest.mark.parametrize("engine", ["auto", "megasam"])
def test_where_nothing_fits_auto_solves_without_networks_and_megasam_fails(
    monkeypatch, tmp_path, engine
):
    import torch
    from megasam_server.models import device_memory

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_memory, "free_on", lambda device: GIB // 2)
    monkeypatch.setattr(preset_fit, "select_checkpoints", all_there)
    settings = SolveSettings(engine=engine)
    job = SolveJob(tmp_path / "plate", None, settings, tmp_path, tmp_path)
    choice = EngineChoice("megasam", "MegaSAM", "Solved", selection=all_there(settings))
    if engine == "megasam":
        with pytest.raises(MegasamError) as error:
            run._fitted(job, choice, plate())
        assert error.value.code == "gpu_too_small"
        return
    kept, fallen = run._fitted(job, choice, plate())
    assert kept == settings
    assert (fallen.engine, fallen.source) == ("classical", "Classical")
    assert fallen.status.startswith("⚠ Reduced to the classical engine")
    assert [notice.code for notice in fallen.notices] == ["gpu_too_small"]
