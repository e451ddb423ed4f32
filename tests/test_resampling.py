"""The matrices of interpolate and pad: their algebra, NumPy's padding, onnxruntime's Resize; and the layers of both.

torch's opinion on both ops is in test_torch_oracle.py, all backends against the reference in test_parity.py.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastnn as fnn
import fastnn.functional as F
from fastnn import ShapeError
from fastnn import layers as L
from fastnn._resampling import COORDINATES, ROUNDINGS, Matrix, interpolation, padding


def dense(matrix):
    """A Matrix as an array."""
    begin, index, weight, _, _ = matrix.table(np.dtype(np.float64))
    array = np.zeros(matrix.shape)
    for row in range(len(array)):
        taps = slice(begin[row], begin[row + 1])
        assert len(set(index[taps])) == len(index[taps]), "each column once"
        array[row, index[taps]] = weight[taps]
    return array


def some_matrix(out, n, taps, seed=0):
    rng = np.random.default_rng(seed)
    return Matrix(out, n, rng.integers(0, out, taps), rng.integers(0, n, taps), rng.standard_normal(taps))


@pytest.mark.parametrize(("out", "n", "taps"), [(5, 7, 20), (9, 3, 4), (1, 1, 3), (4, 6, 0), (0, 3, 0), (3, 0, 0)])
def test_algebra(out, n, taps):
    matrix = some_matrix(out, n, taps)
    array = dense(matrix)
    assert array.shape == (out, n)
    np.testing.assert_array_equal(dense(matrix.transposed), array.T)
    np.testing.assert_array_equal(dense(matrix.magnitude()), np.abs(array))
    np.testing.assert_array_equal(dense(matrix.times(3)), np.kron(array, np.eye(3)))
    assert matrix.most_taps == np.count_nonzero(array, axis=1).max(initial=0)


def test_taps_in_one_place_are_added_and_zeros_are_none():
    matrix = Matrix(2, 2, np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), np.array([0.25, 0.5, 1.0, -1.0]))
    np.testing.assert_array_equal(dense(matrix), [[0, 0.75], [0, 0]])
    assert matrix.most_taps == 1


def test_the_longest_run_of_copies_is_known():
    def copied(matrix):
        return matrix.table(np.dtype(np.float32))[3:]

    assert copied(padding(10, 3, 2, "constant")) == (3, 13)
    assert copied(padding(10, -3, 2, "reflect")) == (0, 7)
    assert copied(padding(5, 4, 4, "circular")) == (4, 9)
    assert copied(interpolation(5, 5, None, "linear")) == (0, 5)
    assert copied(some_matrix(4, 6, 0)) == (0, 0)
    assert interpolation(5, 5, None, "cubic").is_identity
    assert padding(5, 0, 0, "replicate").is_identity
    assert not padding(5, 1, -1, "replicate").is_identity


def test_matrices_are_kept():
    assert interpolation(5, 9, None, "linear") is interpolation(5, 9, None, "linear")
    table = padding(4, 1, 1, "reflect").table(np.dtype(np.float32))
    assert padding(4, 1, 1, "reflect").table(np.dtype(np.float32)) is table


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "cubic", "area"])
@pytest.mark.parametrize(("n", "out"), [(1, 1), (1, 5), (7, 1), (5, 12), (12, 5), (100, 37)])
def test_weights_add_up_to_one(mode, n, out):
    """n weights below 1, of up to eight operations each, half an eps an operation."""
    array = dense(interpolation(n, out, None, mode))
    np.testing.assert_allclose(array.sum(1), 1.0, rtol=0, atol=8 * max(n, 4) * 2.0**-53)


@pytest.mark.parametrize(
    ("mode", "name"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]
)
@pytest.mark.parametrize("pads", [((1, 2),), ((0, 0), (2, 1)), ((1, 0), (2, 3), (0, 1)), ((1, 1),) * 4])
def test_pad_is_numpys(mode, name, pads):
    x = np.random.default_rng(0).standard_normal((4, 5, 4, 6)[: len(pads)])
    order = [n for pair in reversed(pads) for n in pair]
    np.testing.assert_array_equal(F.pad(x, order, mode), np.pad(x, pads, name))


@pytest.mark.parametrize(
    ("mode", "rounding"),
    [*itertools.product(["nearest"], ROUNDINGS), ("linear", "round_prefer_floor"), ("cubic", "round_prefer_floor")],
)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_coordinates_are_those_of_onnxruntime(coordinates, mode, rounding):
    """Sizes that are powers of two over the input's, so that no place depends on float32's rounding, and others for
    modes that do not jump. float32 against float64: 1e-5 of values near 1."""
    onnx = pytest.importorskip("onnx", reason="onnx, which describes the node, is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime, the oracle of this test, is not installed")
    helper = onnx.helper
    x = np.random.default_rng(1).standard_normal((1, 2, 4, 6)).astype(np.float32)
    sizes = [(8, 12), (2, 3), (16, 6), (1, 1)] + ([(7, 4), (3, 11)] if mode != "nearest" else [])
    for size in sizes:
        for options in ({}, *([{"exclude_outside": 1}, {"cubic_coeff_a": -0.5}] if mode == "cubic" else [])):
            node = helper.make_node(
                "Resize", ["x", "", "", "sizes"], ["y"], mode=mode, nearest_mode=rounding,
                coordinate_transformation_mode=coordinates, **options,
            )  # fmt: skip
            given = helper.make_tensor("sizes", onnx.TensorProto.INT64, [4], [1, 2, *size])
            ports = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy")
            graph = helper.make_graph([node], "resize", [next(ports)], [next(ports)], [given])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
            session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            (want,) = session.run(None, {"x": x})
            nearest = {"rounding": rounding} if mode == "nearest" else {}
            name = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[mode]
            got = F.interpolate(x, size, mode=name, coordinates=coordinates, **nearest, **options)
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5, err_msg=f"{size} {options}")


def test_infinities_spread_no_further_than_weights():
    x = np.zeros((1, 1, 1, 8), np.float32)
    x[..., 4] = np.inf
    assert np.isinf(F.interpolate(x, (1, 8), mode="bilinear")).sum() == 1
    assert not np.isnan(F.interpolate(x, (1, 15), mode="bilinear", align_corners=True)).any()


# ---- layers ---------------------------------------------------------------------------------------------------------


def test_layers_say_what_they_are():
    assert repr(L.Upsample(scale_factor=2)) == "Upsample nearest x2"
    assert repr(L.Upsample((3, 4), mode="bilinear")) == "Upsample bilinear to (3, 4)"
    assert repr(L.ReflectionPad2d(2)) == "ReflectionPad2d 2"
    assert repr(L.ZeroPad2d((1, 2, 3, 4))) == "ZeroPad2d (1, 2, 3, 4)"
    assert repr(L.ConvTranspose2d(8, 4, 3, stride=2, groups=2)) == "ConvTranspose2d 8->4 3x3, stride 2, groups 2"
    assert repr(L.Conv1d(8, 4, 3, stride=2, groups=2)) == "Conv1d 8->4 3, stride 2, groups 2"
    assert repr(L.PixelShuffle(3)) == "PixelShuffle 3"
    assert repr(L.PixelUnshuffle(3)) == "PixelUnshuffle 3"
    assert repr(L.ChannelShuffle(2)) == "ChannelShuffle 2"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: L.Upsample(), ValueError, "expected either size or scale_factor"),
        (lambda: L.Upsample(2, mode="lanczos"), ValueError, "unknown mode 'lanczos'"),
        (lambda: L.Upsample(2, align_corners=True), ValueError, "align_corners goes with"),
        (lambda: L.ZeroPad2d((1, 2)), TypeError, "whole number or four of them"),
        (lambda: L.ZeroPad2d(1.5), TypeError, "whole number or four of them"),
        (lambda: L.ConvTranspose2d(4, 6, 3, groups=4), ValueError, "groups must divide the channels"),
        (lambda: L.ConvTranspose2d(4, 6, 0), ValueError, "kernel_size must be at least 1"),
        (lambda: L.Conv1d(4, 6, (3, 3)), TypeError, "kernel_size must be a whole number"),
        (lambda: L.PixelShuffle(0), ValueError, "upscale_factor must be at least 1"),
        (lambda: L.ChannelShuffle(0), ValueError, "groups must be a whole number of at least 1"),
    ],
)
def test_layers_refuse_bad_options(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (L.Upsample(2, mode="bilinear"), (1, 2, 3), "fits mode 'bilinear'"),
        (L.ReflectionPad2d(3), (1, 2, 3, 5), "has only 2 elements"),
        (L.ZeroPad2d(1), (3,), "more than there are axes"),
        (L.ConvTranspose2d(4, 6, 3), (1, 3, 5, 5), r"expected \(N, 4, H, W\)"),
        (L.Conv1d(4, 6, 3), (1, 4, 5, 5), r"expected \(N, 4, L\)"),
        (L.PixelShuffle(2), (1, 6, 5, 5), r"C \* 2 \* 2"),
        (L.PixelUnshuffle(2), (1, 6, 5, 5), r"H \* 2"),
        (L.ChannelShuffle(4), (1, 6, 5, 5), "channels that 4 divides"),
    ],
)
def test_layers_name_what_does_not_fit(layer, shape, words):
    with pytest.raises(ShapeError, match=words):
        layer.output_shape(shape)
    with pytest.raises(ShapeError, match=r"layer '0'"):
        L.Sequential(layer)(np.zeros(shape, np.float32))


def test_transposed_convolution_keeps_the_variance():
    """He's initialisation counts the taps that meet: the mean of squares is 2 for unit input, within 3 parts in 10
    (64 x 30 x 30 outputs of 4 x 64 taps of the same 64 x 32 filters: the weights' own spread is 1 in 100)."""
    x = np.random.default_rng(0).standard_normal((4, 64, 16, 16)).astype(np.float32)
    for layer in (L.ConvTranspose2d(64, 32, 4, stride=2, rng=0), L.ConvTranspose2d(64, 32, 2, stride=2, rng=0)):
        y = layer(x)[:, :, 2:-2, 2:-2]
        assert abs(float(np.square(y).mean()) - 2) < 0.6


def test_batch_norm_folds_into_transposed_and_one_dimensional_convolutions():
    rng = np.random.default_rng(3)
    for conv, norm, shape in (
        (L.ConvTranspose2d(6, 8, 3, stride=2, groups=2, rng=0), L.BatchNorm2d(8), (2, 6, 5, 5)),
        (L.Conv1d(6, 8, 3, groups=2, rng=0), L.BatchNorm1d(8), (2, 6, 9)),
    ):
        norm.running_mean[...], norm.running_var[...] = rng.normal(size=8), rng.uniform(0.5, 2, 8)
        norm.weight[...], norm.bias[...] = rng.normal(size=(2, 8))
        model = L.Sequential(conv, norm, L.ReLU()).copy(dtype=np.float64)
        program = fnn.compile(model, shape)
        assert "BatchNorm" in program.describe()
        assert len(program._graph.nodes) == 1
        x = rng.standard_normal(shape)
        # sums of at most 27 products of numbers near 1, scaled once before and once behind
        np.testing.assert_allclose(program(x), model(x), rtol=0, atol=1e-13 * np.abs(model(x)).max())
