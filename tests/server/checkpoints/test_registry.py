"""The table itself: complete, without contradictions, and honest about what is not known."""

from __future__ import annotations

import re

import pytest
from megasam_server.checkpoints.registry import CHECKPOINTS, find_checkpoint, weight_files
from megasam_shared.errors import MegasamError
from megasam_shared.stages import STAGE_BY_KEY


def test_every_entry_says_what_a_studio_must_know():
    names = [file.name for _, file in weight_files()]
    assert len(names) == len(set(names))
    assert len({checkpoint.name for checkpoint in CHECKPOINTS}) == len(CHECKPOINTS)
    for checkpoint in CHECKPOINTS:
        assert checkpoint.stage in STAGE_BY_KEY
        assert checkpoint.licence_source.startswith("https://")
        assert checkpoint.commercial_use == ("-NC-" not in checkpoint.licence)
        for file in checkpoint.files:
            assert file.source.startswith("https://")
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.git_blob is None or re.fullmatch("[0-9a-f]{40}", file.git_blob)
            assert file.size is None or file.size > 1_000_000


def test_published_sizes_agree_with_the_networks():
    """A file is its tensors and a little more: names, and up to 64 bytes of padding for each."""
    pytest.importorskip("torch")
    from math import prod

    from megasam_server.checkpoints.architectures import official_shapes

    for checkpoint, file in weight_files():
        shapes = official_shapes(checkpoint.network)
        tensors = 4 * sum(prod(shape) for shape in shapes.values())
        if file.size is not None:
            assert 0 < file.size - tensors < 500 * len(shapes), file.name


def test_a_checkpoint_is_found_by_its_name_or_its_files():
    assert find_checkpoint("megasam") is find_checkpoint("megasam_final.pth")
    with pytest.raises(MegasamError) as error:
        find_checkpoint("sam")
    assert error.value.code == "checkpoint_unknown"
    assert "unidepth_v2_vits" in error.value.hint
