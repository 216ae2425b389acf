"""The checkpoints that the networks are known to load, with what a studio must know of each.

Two tables: what others publish, and the weights of our own that come with the package. Every size
and hash of the first was found written in public; the comment beside it says where. What was not
found is None, and then the file is judged by its keys and shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megasam_shared.errors import MegasamError


@dataclass(frozen=True)
class WeightFile:
    """One file that holds the weights.

    Attributes:
        name: what it is called in the folder of checkpoints, or its path in that of the package.
        source: page or address to get it from; of a file of the package, what describes it.
        size: bytes; None where it is not published.
        sha256: of the file; None where it is not published.
        git_blob: name of the file's content in the git repository that publishes it (SHA-1 of
            ``blob SIZE NUL`` and the content); proves the file as well as ``sha256`` does.
    """

    name: str
    source: str
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one network.

    Attributes:
        name: what the command line calls it.
        title: what people read.
        network: key of :data:`megasam_server.checkpoints.architectures.ARCHITECTURES`.
        stage: key of the stage (:mod:`megasam_shared.stages`) that needs it.
        purpose: what it is for, in a few words.
        licence: SPDX identifier. licence_source: page that states it.
        commercial_use: the licence allows it.
        files: the forms it is published in; any one of them will do.
        built_in: weights of our own, which lie in the package.
    """

    name: str
    title: str
    network: str
    stage: str
    purpose: str
    licence: str
    licence_source: str
    commercial_use: bool
    files: tuple[WeightFile, ...]
    built_in: bool = False


_MEGASAM = "https://github.com/mega-sam/mega-sam"
_RAFT = "https://github.com/princeton-vl/RAFT"
_MODEL_CARD = "part of this package: megasam_server/weights/{}/MODEL_CARD.md"


def _depth_anything_v2(
    encoder: str, size_name: str, licence: str, commercial_use: bool, size: int, sha256: str
) -> Checkpoint:
    name = f"depth_anything_v2_{encoder}"
    page = f"https://huggingface.co/depth-anything/Depth-Anything-V2-{size_name}"
    return Checkpoint(
        name=name,
        title=f"Depth Anything V2 {size_name}",
        network=name,
        stage="mono_depth",
        purpose="mono depth",
        licence=licence,
        licence_source="https://github.com/DepthAnything/Depth-Anything-V2#license",
        commercial_use=commercial_use,
        files=(WeightFile(f"{name}.pth", page, size, sha256),),
    )


def _unidepth_v2(
    encoder: str, size_name: str, revision: str, size: int | None = None, sha256: str | None = None
) -> Checkpoint:
    """At a revision of June 2024: as ``main`` the repositories hold another, newer network.

    ``size`` and ``sha256`` are those of the safetensors file; nothing is known of the other.
    """
    name = f"unidepth_v2_{encoder}"
    page = f"https://huggingface.co/lpiccinelli/unidepth-v2-{encoder}14/blob/{revision}"
    return Checkpoint(
        name=name,
        title=f"UniDepth V2 {size_name}",
        network=name,
        stage="metric_depth",
        purpose="metric depth",
        licence="CC-BY-NC-4.0",
        licence_source="https://github.com/lpiccinelli-eth/UniDepth#license",
        commercial_use=False,
        files=(
            WeightFile(f"{name}14.safetensors", f"{page}/model.safetensors", size, sha256),
            WeightFile(f"{name}14.bin", f"{page}/pytorch_model.bin"),
        ),
    )


# The checkpoints of one stage from the best to the smallest: the selection relies on the order.
CHECKPOINTS: tuple[Checkpoint, ...] = (
    Checkpoint(
        name="megasam",
        title="MegaSaM",
        network="droid",
        stage="tracking",
        purpose="camera tracking",
        # The README: all software Apache-2.0, "all other materials" CC-BY 4.0.
        licence="CC-BY-4.0",
        licence_source=f"{_MEGASAM}#copyright",
        commercial_use=True,
        files=(
            WeightFile(
                "megasam_final.pth",
                f"{_MEGASAM}/blob/main/checkpoints/megasam_final.pth",
                # Size and SHA-256: Git LFS pointer of a public copy (Hugging Face data set
                # UCBProject/Weights, commit 1ab481b6).
                size=20_812_149,
                sha256="f386b79d7cf41ac3c339ec4364a40378a1529a9cee74271bedf5eb10e43e748a",
                # The repository itself, commit c2e0099c: the authors' own word.
                git_blob="750ba60eb19054829263f03163d96120e28134c4",
            ),
        ),
    ),
    Checkpoint(
        name="raft_things",
        title="RAFT (things)",
        network="raft",
        stage="flow",
        purpose="optical flow",
        # LICENSE of the repository, whose download script fetches the file.
        licence="BSD-3-Clause",
        licence_source=f"{_RAFT}/blob/master/LICENSE",
        commercial_use=True,
        files=(
            WeightFile(
                "raft-things.pth",
                f"{_RAFT}#demos",
                # Git LFS pointers of several public copies agree, e.g. Hugging Face ddrfan/RAFT,
                # commit bfb9a876, and Iceclear/MGLD-VSR, commit 591c71af.
                size=21_108_000,
                sha256="fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
            ),
        ),
    ),
    _depth_anything_v2(
        *("vitl", "Large", "CC-BY-NC-4.0"),
        commercial_use=False,
        # Git LFS pointers of public copies agree: Hugging Face camenduru/FLUX.1-dev, commit
        # a4a17b42, and simon123905/ShadowDiffusion, commit c3cf4f8f.
        size=1_341_395_338,
        sha256="a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345",
    ),
    Checkpoint(
        name="depth_anything_v1_vitl",
        title="Depth Anything V1 Large",
        network="depth_anything_v1_vitl",
        stage="mono_depth",
        purpose="mono depth",
        # The author: "Are the model weights under Apache 2.0 license?" "Yes."
        licence="Apache-2.0",
        licence_source="https://github.com/LiheYoung/Depth-Anything/issues/15",
        commercial_use=True,
        files=(
            WeightFile(
                "depth_anything_vitl14.pth",
                "https://huggingface.co/spaces/LiheYoung/Depth-Anything/tree/main/checkpoints",
                # SHA-256: the authors' page at Hugging Face (LiheYoung/Depth-Anything, 843bd97);
                # size: Git LFS pointer of a copy with that hash (plutosss/ImageProcessing,
                # commit 116e8826).
                size=1_341_401_882,
                sha256="6c6a383e33e51c5fdfbf31e7ebcda943973a9e6a1cbef1564afe58d7f2e8fe63",
            ),
        ),
    ),
    _depth_anything_v2(
        *("vitb", "Base", "CC-BY-NC-4.0"),
        commercial_use=False,
        # The authors' commit f11825d6 at Hugging Face.
        size=389_961_218,
        sha256="0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328",
    ),
    _depth_anything_v2(
        *("vits", "Small", "Apache-2.0"),
        commercial_use=True,
        # The authors' commit 65ae6e3e at Hugging Face.
        size=99_218_434,
        sha256="715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378",
    ),
    _unidepth_v2(
        *("vitl", "Large", "1d0d3c52f60b5164629d279bb9a7546458e6dcc4"),
        # A public download script that pins this revision. No hash was found.
        size=1_452_916_608,
    ),
    _unidepth_v2(
        *("vits", "Small", "8e31204"),
        # The authors' page at Hugging Face, which gives the size as 310 MB.
        sha256="f278910c51c27fb37ea8794286670a1ad5d2bade7019fbd1def6664ed5753186",
    ),
)


def _of_our_own(
    name: str, title: str, network: str, stage: str, purpose: str, file: WeightFile
) -> Checkpoint:
    return Checkpoint(
        name=name,
        title=title,
        network=network,
        stage=stage,
        purpose=purpose,
        licence="Apache-2.0",
        licence_source="https://www.apache.org/licenses/LICENSE-2.0",
        commercial_use=True,
        files=(file,),
        built_in=True,
    )


# At most one of a stage. File names are relative to the package's folder of weights.
BUILT_IN: tuple[Checkpoint, ...] = (
    _of_our_own(
        *("built_in_tracker", "Built-in tracker", "droid", "tracking", "camera tracking"),
        WeightFile(
            "tracker/tracker_fp16.0.safetensors",
            _MODEL_CARD.format("tracker"),
            size=10_397_158,
            sha256="def2c001df78ccdefa32f0e63b61ca48e1ae4be270e5fce2f4753fa8fc666a97",
        ),
    ),
    _of_our_own(
        *("built_in_raft", "Built-in RAFT", "raft", "flow", "optical flow"),
        WeightFile(
            "raft/raft_fp16.0.safetensors",
            _MODEL_CARD.format("raft"),
            size=10_539_904,
            sha256="303d72af511378b2c4874956d18de426290f5985a741dbad090d10d1b3f5a49b",
        ),
    ),
)


def find_checkpoint(name: str) -> Checkpoint:
    """The checkpoint that people call ``name``: its name, or the name of one of its files.

    Raises:
        MegasamError: ``checkpoint_unknown``.
    """
    for checkpoint in (*CHECKPOINTS, *BUILT_IN):
        if name in (checkpoint.name, *(file.name for file in checkpoint.files)):
            return checkpoint
    known = ", ".join(checkpoint.name for checkpoint in (*CHECKPOINTS, *BUILT_IN))
    raise MegasamError(
        "checkpoint_unknown", f"There is no checkpoint {name[:200]!r}.", f"Known are {known}."
    )


def weight_files() -> Iterator[tuple[Checkpoint, WeightFile]]:
    """Every published file with the checkpoint it belongs to."""
    for checkpoint in CHECKPOINTS:
        for file in checkpoint.files:
            yield checkpoint, file


def refuse_non_commercial(checkpoint: Checkpoint) -> None:
    """Stop what ``commercial_only`` does not allow.

    Raises:
        MegasamError: ``checkpoint_not_commercial``.
    """
    if not checkpoint.commercial_use:
        raise MegasamError(
            "checkpoint_not_commercial",
            f"{checkpoint.title} is licensed under {checkpoint.licence}, which forbids commercial"
            " use, and commercial_only is on.",
            f"Use another checkpoint for {checkpoint.purpose}, or turn"
            " commercial_only off for work that is not commercial.",
        )
