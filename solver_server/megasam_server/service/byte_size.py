"""Sizes in words."""

from __future__ import annotations


def byte_size(count: int) -> str:
    """``3.5 MB``, ``12.0 GB``: decimal units, as disks are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
