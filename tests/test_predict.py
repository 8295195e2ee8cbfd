import numpy as np
import pytest
import torch
from tiny import Boxes, network

from fss.data.pictures import letterbox_image, letterbox_mask
from fss.model import Prediction
from fss.predict import predict_array


def picture(height: int, width: int, name: str = "1") -> tuple[np.ndarray, np.ndarray]:
    image, mask = Boxes().read("red", name, max(height, width, 16))
    return image[:height, :width], mask[:height, :width]


SUPPORT = [picture(60, 90, "1"), picture(80, 50, "2")]


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (64, 64), (7, 200), (1, 1)])
def test_the_mask_has_the_querys_own_size(height, width):
    found = predict_array(network(), SUPPORT, picture(height, width, "3")[0], 64)
    assert found.shape == (height, width)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= {0, 1}


def test_it_is_what_the_network_says_of_the_fitted_pictures():
    model = network(channels=8)
    # The prediction is made to depend on the picture, so that a turned mask would be found.
    seen = {}
    model.backbone.forward = lambda query: seen.setdefault("query", query)
    model.encode_support = lambda support, mask: seen.update(support=support, mask=mask)

    def said(query, code, size):
        bright = query.mean(1) - 0.5
        return Prediction(torch.stack([-bright, bright], 1), {}, ())

    model.segment_features = said
    query = np.zeros((30, 60, 3), np.uint8)
    query[5:25, 40:] = 255
    found = predict_array(model, SUPPORT, query, 60)
    assert np.array_equal(found, (query[..., 0] > 0).astype(np.uint8))
    support, mask = seen["support"], seen["mask"]
    assert seen["query"].shape == (1, 3, 60, 60) and support.shape == (1, 2, 3, 60, 60)
    for k, (image, labels) in enumerate(SUPPORT):
        fitted = torch.from_numpy(letterbox_image(image, 60)).permute(2, 0, 1) / 255
        torch.testing.assert_close(support[0, k], fitted)
        assert np.array_equal(mask[0, k].numpy(), letterbox_mask(labels, 60))
    assert (mask == 255).any()  # the padding is nobody's
