"""The ladder that a stage walks down when the GPU is too small."""

from __future__ import annotations

import weakref

import pytest

torch = pytest.importorskip("torch")

from megasam_server.pipeline.out_of_memory import (  # noqa: E402
    Reductions,
    explained,
    is_out_of_memory,
    with_halved_chunks,
    with_lower_resolutions,
)
from megasam_shared.errors import MegasamError  # noqa: E402


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def fits(limit: float, tried: list[float]):
    """Work that needs as much memory as it takes at once."""

    def work(value: float) -> str:
        tried.append(value)
        if value > limit:
            raise full()
        return f"done with {value}"

    return work


def test_chunks_are_halved_until_they_fit():
    tried, reductions = [], Reductions()
    assert with_halved_chunks("flow", 16, fits(3, tried), reductions) == "done with 2"
    assert tried == [16, 8, 4, 2]
    assert reductions.status == "⚠ Reduced optical flow (chunk 16 to 2)"
    (notice,) = reductions.notices
    assert notice.code == "reduced_for_memory"
    assert "Reduced optical flow (chunk 16 to 2)" in notice.message


def test_what_is_kept_for_later_goes_before_anything_is_given_up():
    tried, kept = [], ["two networks"]
    reductions = Reductions(empty_device=lambda: bool(kept) and not kept.clear())

    def work(chunk: int) -> str:
        tried.append(chunk)
        if kept or chunk > 4:
            raise full()
        return "done"

    assert with_halved_chunks("flow", 4, work, reductions) == "done"
    assert tried == [4, 4] and reductions.steps == {}
    tried.clear()
    kept.append("one")
    assert with_halved_chunks("flow", 8, work, reductions) == "done"
    assert tried == [8, 8, 4] and reductions.steps == {"flow": "chunk 8 to 4"}


def test_nothing_is_said_when_all_fits():
    reductions = Reductions()
    assert with_halved_chunks("flow", 5, lambda chunk: chunk, reductions) == 5
    assert reductions.status == ""
    assert reductions.notices == []


def test_not_even_one_fits():
    tried, reductions = [], Reductions()
    with pytest.raises(MegasamError) as error:
        with_halved_chunks("tracking", 5, fits(0, tried), reductions)
    assert tried == [5, 2, 1]
    assert error.value.code == "out_of_gpu_memory"
    assert "camera tracking" in error.value.message
    assert reductions.steps == {}


def test_resolutions_go_down_and_then_the_stage_is_left_out():
    tried, reductions = [], Reductions()
    assert with_lower_resolutions("video_depth", 1.0, 0.25, fits(0.3, tried), reductions)
    assert tried == [1.0, 0.5, 0.25]
    assert reductions.status == "⚠ Reduced consistent depth (resolution 1 to 0.25)"
    assert with_lower_resolutions("video_depth", 0.4, 0.25, fits(0, tried), reductions) is None
    assert tried[3:] == [0.4, 0.25]
    assert reductions.status == "⚠ Reduced consistent depth (skipped)"


def test_several_stages_are_listed():
    reductions = Reductions()
    with_halved_chunks("mono_depth", 2, fits(1, []), reductions)
    with_halved_chunks("flow", 4, fits(2, []), reductions)
    assert reductions.status == ("⚠ Reduced mono depth (chunk 2 to 1), optical flow (chunk 4 to 2)")


def test_whoever_wants_nothing_given_up_gets_an_error_at_once():
    tried, reductions = [], Reductions(allowed=False)
    with pytest.raises(MegasamError, match="nothing may be lowered"):
        with_halved_chunks("flow", 8, fits(4, tried), reductions)
    with pytest.raises(MegasamError, match="nothing may be lowered"):
        with_lower_resolutions("video_depth", 1.0, 0.25, fits(0.5, tried), reductions)
    assert tried == [8, 1.0]
    assert reductions.status == ""


def test_what_was_given_up_before_the_solve_comes_first():
    reductions = Reductions(mode="Fast mode")
    assert reductions.status == "⚠ Reduced to Fast mode"
    assert reductions.notices == []
    with_halved_chunks("flow", 4, fits(2, []), reductions)
    assert reductions.status == "⚠ Reduced to Fast mode, optical flow (chunk 4 to 2)"


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), MemoryError()])
def test_other_errors_are_not_tried_again(error):
    tried = []

    def work(chunk: int) -> None:
        tried.append(chunk)
        raise error

    with pytest.raises(type(error)):
        with_halved_chunks("flow", 8, work, Reductions())
    assert tried == [8]


def test_what_a_failed_attempt_held_is_gone_before_the_next():
    held: list[weakref.ref] = []

    def work(chunk: int) -> int:
        assert all(tensor() is None for tensor in held)
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        if chunk > 1:
            raise full()
        return chunk

    assert with_halved_chunks("flow", 8, work, Reductions()) == 1


def test_the_libraries_below_torch_say_it_in_their_own_words():
    assert is_out_of_memory(full())
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("an illegal memory access was encountered"))
    assert not is_out_of_memory(MemoryError())  # of the host: less on the GPU does not help
    with pytest.raises(MegasamError, match="not enough memory for optical flow"), explained("flow"):
        raise full()
