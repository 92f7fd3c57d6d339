# SPDX-License-Identifier: Apache-2.0
"""Rendered images: window functions of PS3.3 C.11.2, photometric interpretations, viewport, thumbnails."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests.support.dicom_objects import make_ct, part10
from tests.support.http_archive import HttpArchive, http_archive, instance_path, ramp_volume
from tests.support.series import series_spec
from viewer_api.errors import BadRequestError
from viewer_api.rendering import Window, apply_window, parse_viewport, parse_window

if TYPE_CHECKING:
    from collections.abc import Iterator

PNG = {"Accept": "image/png"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpArchive]:
    with http_archive(tmp_path_factory.mktemp("rendered")) as archive:
        yield archive


@pytest.fixture(scope="module")
def slices(archive):
    return archive.add_series(series_spec(), ramp_volume())


@pytest.fixture(scope="module")
def client(archive):
    return archive.client()


def received(archive: HttpArchive, number: int, pixels: np.ndarray, **values: object) -> str:
    ds = make_ct(number, study=3)
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.PixelData = pixels.tobytes()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return instance_path(archive.receive(part10(ds)))


def picture(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(BytesIO(response.content)))


def test_linear_follows_the_standards_table():
    # PS3.3 C.11.2.1.2.1, Note 2: centre 2048, width 4096 maps 0 .. 4095 to the whole range.
    values = np.array([0.0, 4095.0, -5.0, 5000.0, 2047.5])
    shown = apply_window(values, Window(2048, 4096, "LINEAR"))
    np.testing.assert_allclose(shown, [0, 255, 0, 255, 127.5])
    # Width 1 is a threshold at the centre - 0.5.
    np.testing.assert_allclose(apply_window(np.array([99.4, 99.6]), Window(100, 1, "LINEAR")), [0, 255])


def test_linear_exact_and_sigmoid():
    exact = apply_window(np.array([0.02, 0.04, 0.06]), Window(0.04, 0.04, "LINEAR_EXACT"))
    np.testing.assert_allclose(exact, [0, 127.5, 255], atol=1e-9)
    sigmoid = apply_window(np.array([-1e9, 40.0, 1e9]), Window(40, 400, "SIGMOID"))
    np.testing.assert_allclose(sigmoid, [0, 127.5, 255], atol=1e-12)


def test_the_headers_window_is_applied_and_nothing_is_mirrored(client, slices):
    ds = dcmread(BytesIO(slices[0].part10_bytes))
    mu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    center, width = float(ds.WindowCenter), float(ds.WindowWidth)
    expected = np.rint(np.clip(((mu - center) / width + 0.5) * 255, 0, 255))
    shown = picture(client.get(instance_path(slices[0]) + "/rendered", headers=PNG))
    assert shown.shape == (5, 6)
    np.testing.assert_array_equal(shown, expected)
    framed = picture(client.get(instance_path(slices[0]) + "/frames/1/rendered", headers=PNG))
    np.testing.assert_array_equal(framed, expected)


def test_a_window_in_the_request_replaces_it(client, slices):
    path = instance_path(slices[0]) + "/rendered?window=1,0.1,linear-exact"
    assert picture(client.get(path, headers=PNG)).max() == 0


def test_media_types(client, slices):
    path = instance_path(slices[0]) + "/rendered"
    assert client.get(path).headers["content-type"] == "image/jpeg"
    assert client.get(path, headers={"Accept": "image/webp,image/*,*/*;q=0.8"}).headers["content-type"] == "image/jpeg"
    assert client.get(path + "?accept=image/png").headers["content-type"] == "image/png"
    assert client.get(path, headers={"Accept": "image/gif"}).status_code == 406
    kept = client.get(path + "?quality=50")
    assert client.get(path + "?quality=50", headers={"If-None-Match": kept.headers["etag"]}).status_code == 304


def test_monochrome1_is_inverted(archive, client):
    pixels = np.array([[0, 100], [200, 1000]], "<i2")
    window = {"WindowCenter": "500.5", "WindowWidth": "1001", "RescaleIntercept": "0", "RescaleSlope": "1"}
    plain = picture(client.get(received(archive, 1, pixels, **window) + "/rendered", headers=PNG))
    inverted = received(archive, 2, pixels, PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_array_equal(picture(client.get(inverted + "/rendered", headers=PNG)), 255 - plain)
    assert plain[0, 0] == 0
    assert plain[1, 1] == 255


def test_without_a_window_the_values_fill_the_range(archive, client):
    pixels = np.array([[-300, 0], [150, 300]], "<i2")
    ds_path = received(archive, 3, pixels, WindowCenter=None, WindowWidth=None)
    shown = picture(client.get(ds_path + "/rendered", headers=PNG))
    assert (shown[0, 0], shown[1, 1]) == (0, 255)


def test_colours(archive, client):
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]], "u1")
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "SamplesPerPixel": 3}
    path = received(archive, 4, pixels, PhotometricInterpretation="RGB", PlanarConfiguration=0, **eight)
    np.testing.assert_array_equal(picture(client.get(path + "/rendered", headers=PNG)), pixels)
    planar = np.moveaxis(pixels, -1, 0).copy()
    ds_path = received(
        archive, 5, planar, PhotometricInterpretation="RGB", PlanarConfiguration=1, Rows=2, Columns=2, **eight
    )
    np.testing.assert_array_equal(picture(client.get(ds_path + "/rendered", headers=PNG)), pixels)


def test_viewport_keeps_the_shape_in_mm_and_can_flip(client, slices):
    path = instance_path(slices[0]) + "/rendered"
    # 6 x 0.1 mm wide, 5 x 0.09 mm high.
    assert picture(client.get(path + "?viewport=600,600", headers=PNG)).shape == (450, 600)
    assert picture(client.get(path + "?viewport=60,9", headers=PNG)).shape == (9, 12)
    plain = picture(client.get(path + "?viewport=60,60", headers=PNG))
    flipped = picture(client.get(path + "?viewport=60,60,0,0,-6,5", headers=PNG))
    np.testing.assert_array_equal(flipped, plain[:, ::-1])
    part = picture(client.get(path + "?viewport=30,30,3,0,3,5", headers=PNG))
    assert part.mean() > plain.mean()


def test_thumbnails(client, slices):
    path = instance_path(slices[0])
    for resource in (path, path.rpartition("/instances/")[0], path.rpartition("/series/")[0], path + "/frames/1"):
        assert max(picture(client.get(resource + "/thumbnail", headers=PNG)).shape) == 128


@pytest.mark.parametrize(
    "query",
    [
        "window=1,2", "window=a,b,linear", "window=0.04,0.02,linear", "window=1,-1,linear-exact",
        "window=1,nan,sigmoid", "window=1,2,cubic", "viewport=0,5", "viewport=99999,5", "viewport=5",
        "viewport=5,5,9,9,1,1", "quality=0",
    ],
)  # fmt: skip
def test_bad_parameters(client, slices, query):
    response = client.get(instance_path(slices[0]) + "/rendered?" + query)
    assert response.status_code == 400
    assert response.json()["error"].endswith(".")


def test_objects_without_pixels_are_told(archive, client):
    ds = make_ct(30, study=3)
    del ds.PixelData
    path = instance_path(archive.receive(part10(ds)))
    response = client.get(path + "/rendered")
    assert response.status_code == 422
    assert "cannot be decoded" in response.json()["error"]


def test_parsers_name_what_they_got():
    with pytest.raises(BadRequestError, match="'inf' is not a number"):
        parse_window("inf,1,linear")
    assert parse_window("40,400,linear") == Window(40.0, 400.0, "LINEAR")
    assert parse_viewport("10,20", 100).source == (0.0, 0.0, 0.0, 0.0)
