"""The int8 ranges: an outlier channel keeps its size, a quiet one its room, zero its step."""

import numpy as np
import pytest

from services.embedding.bert import InputScale, Product, quantised_weight
from services.embedding.quantise import best_scale, scale_at


def dequantised(x: np.ndarray, scale: InputScale) -> np.ndarray:
    step = (scale.high - scale.low) / 255
    whole = np.rint((np.clip(x / scale.smooth, scale.low, scale.high) - scale.low) / step)
    return (whole * step + scale.low) * scale.smooth


def test_only_outlier_channels_are_smoothed() -> None:
    scale = scale_at(2.0, np.array([1.0, 20.0, 0.001], np.float32), floor=-20.0)
    np.testing.assert_allclose(scale.smooth, [1.0, 1.1 * 20 / 2, 1.0])


def test_quiet_channel_keeps_room_up_to_the_threshold() -> None:
    scale = scale_at(2.0, np.array([0.01], np.float32), floor=-2.0)
    np.testing.assert_allclose(dequantised(np.array([[1.9]]), scale), [[1.9]], atol=0.01)


@pytest.mark.parametrize("floor", [-0.17, -3.0, 0.0])
def test_zero_stays_zero(floor: float) -> None:
    scale = scale_at(3.0, np.array([3.0], np.float32), floor)
    np.testing.assert_allclose(dequantised(np.zeros((1, 1)), scale), 0, atol=1e-9)


def test_small_negative_floor_leaves_the_steps_to_the_positive_side() -> None:
    gelu, symmetric = (scale_at(4.0, np.ones(1, np.float32), floor) for floor in (-0.17, -4.0))
    assert gelu.high - gelu.low < 0.55 * (symmetric.high - symmetric.low)
    assert gelu.low <= -0.17


def test_weights_have_one_scale_an_output_channel() -> None:
    weight = np.array([[1.0, -0.5], [100.0, 0.0], [0.0, 0.0]], np.float32)
    whole, step = quantised_weight(weight)
    assert whole.dtype == np.int8
    assert whole.tolist() == [[127, -64], [127, 0], [0, 0]]
    np.testing.assert_allclose(whole * step, weight, atol=0.01)


def test_chosen_scale_keeps_the_product_of_inputs_with_an_outlier_channel() -> None:
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(400, 64)).astype(np.float32)
    inputs[::10, 3] += 60
    product = Product("0.up", chance.normal(size=(32, 64)).astype(np.float32), np.zeros(32, np.float32))
    scale = best_scale(product, inputs[::2], inputs[1::2])
    whole, step = quantised_weight(product.weight * scale.smooth)
    exact = inputs @ product.weight.T
    error = dequantised(inputs, scale) / scale.smooth @ (whole * step).T - exact
    plain = scale_at(float(np.abs(inputs).max()), np.zeros(64, np.float32), float(inputs.min()))
    naive = dequantised(inputs, plain) @ product.weight.T - exact
    assert np.square(error).sum() < 0.001 * np.square(exact).sum()
    assert np.square(error).sum() < 0.5 * np.square(naive).sum()
