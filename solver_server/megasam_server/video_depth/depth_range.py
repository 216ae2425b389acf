"""Which depths a result holds, and which of them a preview shows."""

from __future__ import annotations

import numpy as np

HALF_FLOAT = (1e-3, 6e4)
"""Depths stay where half floats (EXR) keep three digits, world units."""


def preview_range(samples: np.ndarray) -> tuple[float, float]:
    """Percentiles 1 and 99, the far one within reach of the middle (sky would flatten all else)."""
    near, middle, far = np.quantile(samples, (0.01, 0.5, 0.99))
    near, far = float(near), float(min(far, 20 * middle))
    return (near, far) if far > 1.01 * near else (0.9 * near, 1.1 * near)
