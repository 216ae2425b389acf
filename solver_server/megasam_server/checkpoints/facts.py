"""What clients and scripts are told about checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

from megasam_shared.protocol import CheckpointInfo
from megasam_shared.transfer import HashCache

from megasam_server.checkpoints.locate import built_in_here, checkpoint_folder, hash_cache_path
from megasam_server.checkpoints.registry import CHECKPOINTS
from megasam_server.checkpoints.verify import CheckpointStatus, glance


def glance_at_all(model_path: str = "") -> list[CheckpointStatus]:
    """The status of every known checkpoint on this machine, without reading any file.

    The published ones, whether they are there or not, then the built-in ones that are there.
    """
    folder, hashes = checkpoint_folder(model_path), HashCache(hash_cache_path())
    return [glance(checkpoint, folder, hashes) for checkpoint in (*CHECKPOINTS, *built_in_here())]


def checkpoint_facts(statuses: Iterable[CheckpointStatus]) -> list[CheckpointInfo]:
    """The same as it travels to clients; paths of this machine stay here."""
    return [_fact(status) for status in statuses]


def _fact(status: CheckpointStatus) -> CheckpointInfo:
    checkpoint, path = status.checkpoint, status.path
    file = next((f for f in checkpoint.files if path and f.name == path.name), checkpoint.files[0])
    return CheckpointInfo(
        name=checkpoint.name,
        title=checkpoint.title,
        purpose=checkpoint.purpose,
        file=file.name,
        state=status.state,
        licence=checkpoint.licence,
        licence_source=checkpoint.licence_source,
        commercial_use=checkpoint.commercial_use,
        source=file.source,
        size=file.size,
        reason=status.reason,
        built_in=checkpoint.built_in,
    )
