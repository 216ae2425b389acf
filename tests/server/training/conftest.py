import pytest
from megasam_server.training.texture_bank import TextureBank, paint_pictures


@pytest.fixture(scope="session")
def bank() -> TextureBank:
    return TextureBank(paint_pictures(12, seed=3, size=128), "cpu")
