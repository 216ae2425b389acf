"""What a Maya camera sees: points to pixels from the attributes of camera and film alone.

Written from Maya's description of film back and film fit, and used by tests only: it shares no code
with the plug-in.
"""

from __future__ import annotations

import numpy as np

from tests.fake_maya.matrices import world_matrix
from tests.fake_maya.scene import Node, Scene

_MM_PER_INCH = 25.4
_NEUTRAL = {
    **{"preScale": 1.0, "postScale": 1.0, "cameraScale": 1.0, "filmTranslateH": 0.0},
    **{"filmTranslateV": 0.0, "filmRollValue": 0.0, "filmFitOffset": 0.0},
    **{"shakeEnabled": False, "orthographic": False},
}


def project(
    scene: Scene, camera_shape: Node, points: np.ndarray, width: int, height: int, time: float
) -> np.ndarray:
    """Pixels [P,2] (corners at integers, y down) of world points [P,3] in cm.

    The picture's frustum at focal length distance is a window on the film plane: its size follows
    from film fit, its middle is shifted by the film offset.
    """

    def value(attribute: str) -> float:
        return scene.value(camera_shape, attribute, time)

    for attribute, neutral in _NEUTRAL.items():
        assert value(attribute) == neutral, f"{attribute} = {value(attribute)} is not supported"
    film_width = value("horizontalFilmAperture") * value("lensSqueezeRatio") * _MM_PER_INCH
    film_height = value("verticalFilmAperture") * _MM_PER_INCH
    picture_aspect = width / height
    wide_film = film_width / film_height > picture_aspect
    # Film fit: 0 fill and 3 overscan look at which is the wider, 1 and 2 do not.
    by_width = {0: not wide_film, 1: True, 2: False, 3: wide_film}[int(value("filmFit"))]
    if by_width:
        window = np.array([film_width, film_width / picture_aspect])
    else:
        window = np.array([film_height * picture_aspect, film_height])
    middle = _MM_PER_INCH * np.array([value("horizontalFilmOffset"), value("verticalFilmOffset")])

    camera_from_world = np.linalg.inv(world_matrix(scene, camera_shape, time))
    in_camera = np.column_stack([points, np.ones(len(points))]) @ camera_from_world
    distance = -in_camera[:, 2]  # it looks along -Z
    assert (distance > 0).all(), "points lie behind the camera"
    on_film = in_camera[:, :2] / distance[:, None] * value("focalLength")
    left_bottom = middle - window / 2
    share = (on_film - left_bottom) / window
    return np.column_stack([share[:, 0] * width, (1 - share[:, 1]) * height])
