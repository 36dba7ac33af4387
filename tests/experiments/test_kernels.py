"""The named kernels respond to what they are named for, and printed errors differ from the right kernels."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cnnjax.errors import UserError
from experiments import kernels


def test_a_kernel_that_is_not_the_lecture_s_fails_its_claims(monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, "vertical", -kernels.KERNELS["vertical"])
    monkeypatch.setitem(kernels.KERNELS, "Sobel", kernels.KERNELS["Sobel"].T)
    noise = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    claims = [*kernels._steps(), *kernels._named({"noise": noise}, {"noise": kernels.respond(noise)})]
    failed = [claim.statement for claim in claims if not claim.ok]
    assert [("light" in statement, "Sobel" in statement) for statement in failed] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_sobel_is_scipy_s():
    image = np.random.default_rng(0).random((8, 9)).astype(np.float32)
    ours = kernels.respond(image)["Sobel"]
    np.testing.assert_allclose(ours, ndimage.sobel(image, axis=1)[1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize(("name", "surface"), [("Sobel", 20), ("Scharr", 60)])
def test_only_as_printed_a_kernel_sees_an_even_surface(name, surface):
    assert kernels.sees(kernels.AS_PRINTED[name])["surface"] == surface
    assert kernels.sees(kernels.KERNELS[name])["surface"] == 0


def test_a_photograph_becomes_the_mean_of_its_blocks(tmp_path):
    picture = np.zeros((170, 200, 3), np.uint8)
    picture[:2, :2] = 255
    Image.fromarray(picture).save(tmp_path / "picture.png")
    grey = kernels.grey(str(tmp_path / "picture.png"))
    assert grey.shape == (80, 100)
    assert grey[0, 0] == 1
    assert grey.sum() == 1


def test_too_small_a_photograph_is_refused(tmp_path):
    Image.new("RGB", (200, 60)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="200x60 pixels: expected at least 80 rows"):
        kernels.load(kernels.Config(str(tmp_path / "small.png")))
