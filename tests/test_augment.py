"""fastnn.augment: bounds and distributions of each, labels that add up, the same bits for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn import augment as A
from fastnn import functional as F
from fastnn import layers as L
from fastnn import optim
from fastnn.errors import ShapeError

RNG = np.random.default_rng(0)
X = RNG.random((12, 3, 8, 10), np.float32)
Y = np.arange(12) % 4

#: every augmentation, with options under which almost every image changes
EACH = {
    "HorizontalFlip": A.HorizontalFlip(),
    "VerticalFlip": A.VerticalFlip(),
    "RandomCrop": A.RandomCrop((8, 10), 2),
    "RandomCrop reflect": A.RandomCrop(6, 3, mode="reflect"),
    "Translate": A.Translate((2, 3), fill=0.5),
    "Rotate": A.Rotate(40),
    "RandomResizedCrop": A.RandomResizedCrop(),
    "RandomResizedCrop 5x7": A.RandomResizedCrop((5, 7), scale=(0.2, 0.9)),
    "ColorJitter": A.ColorJitter(0.4, 0.4, 0.4, 0.1, clip=(0, 1)),
    "PCALighting": A.PCALighting(1.0).fit(X),
    "Cutout": A.Cutout(4),
    "RandomErasing": A.RandomErasing(),
    "RandomErasing noise": A.RandomErasing(0.9, fill="noise"),
    "Mixup": A.Mixup(1.0, classes=4),
    "Mixup per row": A.Mixup(1.0, classes=4, per_row=True),
    "CutMix": A.CutMix(classes=4),
    "CutMix per row": A.CutMix(classes=4, per_row=True),
    "Compose": A.Compose(A.HorizontalFlip(), A.RandomCrop(8, 2), A.Cutout(3), A.Mixup(0.5, classes=4)),
}
each = pytest.mark.parametrize("augment", EACH.values(), ids=EACH)


def made(augment, x, rng, y=Y):
    """Images alone."""
    return augment(x, y, rng=rng)[0] if augment.mixes else augment(x, rng=rng)


# ---- what all have in common ----


@each
def test_the_same_seed_gives_the_same_bits_and_another_does_not(augment):
    first = augment(X, Y, rng=3)
    for again in (augment(X, Y, rng=3), augment(X, Y, rng=np.random.default_rng(3))):
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert any((augment(X, Y, rng=seed)[0] != first[0]).any() for seed in (4, 5))
    generator = np.random.default_rng(3)
    assert (made(augment, X, generator) != made(augment, X, generator)).any()


@each
def test_what_it_was_given_stays(augment):
    x, y = X.copy(), Y.copy()
    x.flags.writeable = y.flags.writeable = False
    result, labels = augment(x, y, rng=0)
    assert not np.shares_memory(result, x)
    result += 1
    np.testing.assert_array_equal(x, X)
    if not augment.mixes:
        assert labels is y


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_dtypes_and_formats(augment, dtype):
    x = X.astype(dtype)
    expected = made(augment, x, 7)
    assert expected.dtype == dtype and expected.flags.c_contiguous and expected.shape[:2] == x.shape[:2]
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.repeat(x, 2, axis=3)[..., ::2]
    for other in (last, wide, np.asfortranarray(x), x[::-1][::-1]):
        # Sums over pixels run in the order of memory.
        np.testing.assert_allclose(made(augment, other, 7), expected, rtol=0, atol=20 * np.finfo(dtype).eps)


@each
def test_integers_become_float32_and_nothing_stays_nothing(augment):
    whole = (X * 255).astype(np.uint8)
    np.testing.assert_array_equal(made(augment, whole, 1), made(augment, whole.astype(np.float32), 1))
    assert len(made(augment, X[:0], 1, Y[:0])) == 0


@each
def test_rows_do_not_depend_on_what_stands_in_the_others(augment):
    """But for mixtures: what becomes of an image is a function of the image and of what was drawn for its row."""
    if augment.mixes:
        return
    other = X.copy()
    other[1:] = RNG.random(other[1:].shape)
    np.testing.assert_allclose(made(augment, other, 5)[0], made(augment, X, 5)[0], rtol=0, atol=1e-6)


def test_representations_are_code():
    assert repr(A.Compose(A.HorizontalFlip(), A.RandomCrop(32, 4))) == (
        "Compose(HorizontalFlip(p=0.5), RandomCrop(size=(32, 32), padding=(4, 4), mode='constant', fill=0.0))"
    )
    for name, augment in EACH.items():
        if name != "PCALighting":  # whose components are fitted
            again = eval(repr(augment), vars(A))
            np.testing.assert_array_equal(made(again, X, 2), made(augment, X, 2))


# ---- moves ----


def share_of(hits, n, p):
    """Whether a count agrees with n draws of probability p: within five standard deviations."""
    return abs(hits - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("flip", "axis"), [(A.HorizontalFlip, 3), (A.VerticalFlip, 2)])
def test_flips(flip, axis, p):
    x = RNG.random((2000, 1, 2, 3), np.float32)
    y, mirrored = flip(p)(x, rng=0), np.flip(x, axis)
    flipped = (y == mirrored).all((1, 2, 3))
    assert (flipped | (y == x).all((1, 2, 3))).all()
    assert share_of(flipped.sum(), 2000, p)


def test_crops_are_windows_and_all_are_equally_likely():
    image = np.arange(1.0, 17).reshape(1, 1, 4, 4)
    y = A.RandomCrop(4, padding=1)(np.repeat(image, 9000, 0), rng=0)
    padded = np.pad(image[0, 0], 1)
    windows = {padded[i : i + 4, j : j + 4].tobytes(): 0 for i in range(3) for j in range(3)}
    for crop in y[:, 0]:
        windows[np.ascontiguousarray(crop).tobytes()] += 1  # KeyError for what is no window
    assert all(share_of(count, 9000, 1 / 9) for count in windows.values())


def test_crops_pad_as_asked():
    image = np.arange(1.0, 5).reshape(1, 1, 2, 2)
    for mode, expected in (("edge", 1.0), ("reflect", 4.0), ("constant", 7.0)):
        y = A.RandomCrop(4, padding=1, mode=mode, fill=7.0)(image, rng=0)
        assert y[0, 0, 0, 0] == expected
    inner = A.RandomCrop((1, 2))(np.repeat(image, 500, 0), rng=0)
    assert inner.shape == (500, 1, 1, 2) and share_of((inner[:, 0, 0, 0] == 1).sum(), 500, 0.5)


def test_translations_move_by_whole_pixels_within_the_limit():
    x = np.zeros((5000, 1, 9, 9), np.float32)
    x[:, 0, 4, 4] = 1
    y = A.Translate((1, 3))(x, rng=0)
    rows, row, column = np.nonzero(y[:, 0])
    np.testing.assert_array_equal(rows, np.arange(5000))
    for at, limit in ((row - 4, 1), (column - 4, 3)):
        counts = np.bincount(at + limit, minlength=2 * limit + 1)
        assert len(counts) == 2 * limit + 1
        assert all(share_of(count, 5000, 1 / (2 * limit + 1)) for count in counts)
    assert (A.Translate(2, fill=0.5)(np.ones((50, 1, 4, 4)), rng=0).min((1, 2, 3)) <= 0.5 + 0.5).all()


# ---- resampling ----


def test_quarter_turns_are_exact():
    x = RNG.random((4, 2, 7, 7))
    y = A.rotated(x, np.array([0.0, 90, 180, -90]))
    for image, turned, k in zip(x, y, (0, 1, 2, -1), strict=True):
        np.testing.assert_allclose(turned, np.rot90(image, k, (1, 2)), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(y[0], x[0])


@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_rotations_are_those_of_scipy(fill):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = RNG.random((5, 2, 8, 11))
    angles = np.array([3.0, -17, 45, 120, 200])
    y = A.rotated(x, angles, fill)
    for image, turned, angle in zip(x, y, angles, strict=True):
        expected = ndimage.rotate(image, angle, (1, 2), reshape=False, order=1, mode="grid-constant", cval=fill)
        np.testing.assert_allclose(turned, expected, rtol=0, atol=1e-12)


def test_angles_are_even_and_within_their_bounds():
    """A dot to the right of the centre tells the angle; at 20 pixels a hundredth of a pixel is 0.03 degrees."""
    x = np.zeros((1000, 1, 51, 51))
    rows, columns = np.mgrid[-25:26, -25:26]
    x[:] = np.exp(-((rows) ** 2 + (columns - 18) ** 2) / 8)  # wide enough for bilinear means
    y = A.Rotate(30)(x, rng=0)[:, 0]
    weights = y / y.sum((1, 2), keepdims=True)
    angle = np.rad2deg(np.arctan2(-(weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))))
    assert np.abs(angle).max() <= 30.1
    counts = np.histogram(angle, 6, (-30.1, 30.1))[0]
    assert all(share_of(count, 1000, 1 / 6) for count in counts)
    np.testing.assert_array_equal(A.Rotate(0)(X, rng=0), X)


def test_the_whole_window_is_interpolation():
    """A window of all of the image, scaled: F.interpolate, which is checked against the specification."""
    whole = A.RandomResizedCrop((5, 13), scale=(1, 1), ratio=(10 / 8, 10 / 8))(X, rng=0)
    np.testing.assert_allclose(whole, F.interpolate(X, (5, 13), mode="bilinear"), rtol=0, atol=1e-6)
    same = A.RandomResizedCrop(scale=(1, 1), ratio=(10 / 8, 10 / 8))(X, rng=0)
    np.testing.assert_allclose(same, X, rtol=0, atol=1e-6)


def windows(scale, ratio, n=1500):
    """Where the windows lie: ramps of rows and columns are kept by bilinear means, away from the border."""
    ramps = np.mgrid[:40, :40] * np.ones((n, 1, 1, 1))
    y = A.RandomResizedCrop(32, scale=scale, ratio=ratio)(ramps, rng=0)
    found = []
    for axis in (0, 1):
        line = y[:, axis, :, 0] if axis == 0 else y[:, axis, 0, :]
        extent = (line[:, 20] - line[:, 12]) * 32 / 8  # the middle of the ramp, which no border bends
        found += [line[:, 16] - extent / 64 - extent / 2 + 0.5, extent]
    return found


def test_windows_lie_inside_and_have_their_areas_and_shapes():
    scale, ratio = (0.2, 0.5), (1 / 2, 2)
    top, tall, left, wide = windows(scale, ratio)
    for first, extent in ((top, tall), (left, wide)):
        assert first.min() > -1e-6 and (first + extent).max() < 40 + 1e-6
    area = tall * wide / 1600
    assert scale[0] - 1e-6 <= area.min() and area.max() <= scale[1] + 1e-6
    assert all(share_of(count, 1500, 0.1) for count in np.histogram(area, 10, scale)[0])
    shape = np.log(wide / tall)
    assert all(share_of(count, 1500, 0.1) for count in np.histogram(shape, 10, (-math.log(2), math.log(2)))[0])
    # Evenly in the room that is left.
    assert all(share_of(count, 1500, 0.1) for count in np.histogram(top / (40 - tall), 10, (0, 1))[0])


def test_windows_that_never_fit_are_the_largest_in_the_middle():
    top, tall, left, wide = windows((0.9, 1.0), (4.0, 5.0), n=50)
    np.testing.assert_allclose(wide, 40)
    np.testing.assert_allclose(tall, 10)
    np.testing.assert_allclose(top, 15)
    np.testing.assert_allclose(left, 0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (2, 3)])
def test_the_smallest_images(shape):
    """Images of a pixel or a line: numbers come out, of the right shape, and within the range of x and fill."""
    x = RNG.random((5, 3, *shape)) + 0.5
    more = [A.RandomCrop(shape, 2, mode="edge"), A.RandomCrop(1, 2), A.Translate((9, 0)), A.Cutout(20)]
    more += [A.RandomResizedCrop((3, 11), scale=(1e-4, 1), ratio=(0.1, 10))]
    for augment in [one for one in EACH.values() if "RandomCrop" not in repr(one)] + more:
        y = made(augment, x, 3, Y[:5])
        assert y.shape[:2] == (5, 3) and np.isfinite(y).all()
        if isinstance(augment, (A.Rotate, A.RandomResizedCrop, A.Mixup, A.CutMix)):
            assert y.min() >= -1e-12 and y.max() <= x.max() + 1e-12


# ---- colours ----

COLOURS = RNG.random((3000, 3, 4, 4))
GREY = np.array([0.299, 0.587, 0.114])


def even(values, least, most):
    """Evenly between the bounds."""
    assert least - 1e-9 <= values.min() and values.max() <= most + 1e-9
    return all(share_of(count, len(values), 0.1) for count in np.histogram(values, 10, (least, most))[0])


def grey(x):
    return np.einsum("c,nchw->nhw", GREY, x)


def test_brightness():
    factor = A.ColorJitter(brightness=0.4)(COLOURS, rng=0) / COLOURS
    np.testing.assert_allclose(factor, factor[:, :1, :1, :1].repeat(3, 1).repeat(4, 2).repeat(4, 3), rtol=1e-12)
    assert even(factor[:, 0, 0, 0], 0.6, 1.4)


def test_contrast_keeps_the_mean_grey():
    y = A.ColorJitter(contrast=0.3)(COLOURS, rng=0)
    np.testing.assert_allclose(grey(y).mean((1, 2)), grey(COLOURS).mean((1, 2)), rtol=1e-12)
    assert even(y.std((1, 2, 3)) / COLOURS.std((1, 2, 3)), 0.7, 1.3)


def test_saturation_keeps_every_grey():
    y = A.ColorJitter(saturation=0.5)(COLOURS, rng=0)
    np.testing.assert_allclose(grey(y), grey(COLOURS), rtol=1e-12)
    away = (y - grey(y)[:, None]) / (COLOURS - grey(COLOURS)[:, None])
    np.testing.assert_allclose(away, np.median(away, (1, 2, 3), keepdims=True) * np.ones_like(away), rtol=1e-6)
    assert even(away[:, 0, 0, 0], 0.5, 1.5)


def test_hue_keeps_every_grey_and_turns_the_colours():
    y = A.ColorJitter(hue=0.25)(COLOURS, rng=0)
    np.testing.assert_allclose(grey(y), grey(COLOURS), rtol=0, atol=1e-12)
    turned, given = (np.einsum("ic,nchw->nihw", A._YIQ[1:], x) for x in (y, COLOURS))
    np.testing.assert_allclose(np.hypot(*turned.swapaxes(0, 1)), np.hypot(*given.swapaxes(0, 1)), rtol=1e-9)
    angle = np.angle((turned[:, 0] + 1j * turned[:, 1]) / (given[:, 0] + 1j * given[:, 1]))[:, 0, 0]
    assert even(angle / (2 * np.pi), -0.25, 0.25)
    np.testing.assert_allclose(A._turned(np.array([2 * np.pi]))[0], np.eye(3), atol=1e-12)


def test_jitter_of_one_channel_and_its_clip():
    one = COLOURS[:, :1]
    y = A.ColorJitter(0.3, 0.3)(one, rng=0)
    slope = (y[:, 0, 0, 0] - y[:, 0, 0, 1]) / (one[:, 0, 0, 0] - one[:, 0, 0, 1])
    assert slope.min() >= 0.7 * 0.7 - 1e-9 and slope.max() <= 1.3 * 1.3 + 1e-9
    clipped = A.ColorJitter(1.0, 1.0, clip=(0.2, 0.8))(COLOURS, rng=0)
    assert clipped.min() == 0.2 and clipped.max() == 0.8
    np.testing.assert_array_equal(A.ColorJitter()(X, rng=0), X)
    for options in ({"saturation": 0.1}, {"hue": 0.1}):
        with pytest.raises(ShapeError, match="three channels"):
            A.ColorJitter(**options)(one)


def test_lighting_follows_the_components_of_colour():
    """The changes have the covariance std^2 V diag(variances^2) V^T."""
    colours = RNG.standard_normal((2000, 3, 2, 2)) * 0.1 + RNG.standard_normal((2000, 1, 2, 2)) * [
        [[0.3]],
        [[0.2]],
        [[0.1]],
    ]
    light = A.PCALighting(0.5).fit(colours)
    change = light(np.zeros((40_000, 3, 1, 2)), rng=0)
    np.testing.assert_array_equal(change[..., 0], change[..., 1])
    pixels = colours.transpose(0, 2, 3, 1).reshape(-1, 3)
    covariance = np.cov(pixels.T, bias=True)
    expected = 0.25 * covariance @ covariance
    # Of 40,000 samples a variance is known to 0.7 %: 5 % of the largest is seven standard errors.
    np.testing.assert_allclose(np.cov(change[:, :, 0, 0].T), expected, rtol=0, atol=0.05 * expected.max())
    bytes_ = A.PCALighting(0.5, white=255).fit(255 * colours)
    np.testing.assert_allclose(bytes_(255 * colours, rng=1), 255 * light(colours, rng=1), rtol=1e-9)
    with pytest.raises(RuntimeError, match="not been fitted"):
        A.PCALighting()(X)


# ---- holes ----


def holes(y):
    """Of images of ones: rows and columns of each hole, which must be a full rectangle."""
    empty = (y == 0).all(1)
    rows, columns = empty.any(2), empty.any(1)
    np.testing.assert_array_equal(empty, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        assert (np.abs(np.diff(np.pad(line, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2).all()  # in one piece
    return rows.sum(1), columns.sum(1), empty


def test_cutout_cuts_a_square_around_any_pixel():
    tall, wide, empty = holes(A.Cutout((4, 2))(np.ones((6400, 2, 8, 8)), rng=0))
    assert set(tall) == {2, 3, 4} and set(wide) == {1, 2}
    # The centre is any of the 8 rows; the hole has two rows above it, and one below.
    assert share_of((tall < 4).sum(), 6400, 3 / 8)
    # A corner is cut by centres in rows 0 to 2 and columns 0 to 1.
    assert share_of(empty[:, 0, 0].sum(), 6400, 6 / 64)
    assert share_of(empty[:, 4, 4].sum(), 6400, 8 / 64)
    assert (A.Cutout(2, fill=0.5)(np.ones((9, 1, 4, 4)), rng=0).min((1, 2, 3)) == 0.5).all()


def test_erasing_keeps_its_bounds():
    scale, ratio = (0.1, 0.3), (0.5, 2.0)
    tall, wide, _ = holes(A.RandomErasing(0.6, scale=scale, ratio=ratio)(np.ones((4000, 1, 64, 64)), rng=0))
    erased = tall > 0
    assert share_of(erased.sum(), 4000, 0.6)
    tall, wide = tall[erased], wide[erased]
    area, shape = tall * wide / 64**2, wide / tall
    # Sides are whole: half a pixel of some 14 at least.
    assert area.min() > 0.1 * 0.93 and area.max() < 0.3 * 1.07
    assert shape.min() > 0.5 * 0.93 and shape.max() < 2 * 1.07
    assert all(share_of(count, len(area), 0.25) for count in np.histogram(area, 4, scale)[0][1:3])


def test_erasing_with_noise():
    y = A.RandomErasing(1.0, fill="noise")(np.full((500, 3, 16, 16), 9.0), rng=0)
    noise = y[y != 9.0]
    assert len(noise) > 10_000 and abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert (y[:, 0] != y[:, 1]).any()


# ---- mixtures ----

#: image i is 1 in channel i and 0 elsewhere: what an image is made of can be read off its channels
PURE = np.repeat(np.eye(40)[:, :, None], 64, 2).reshape(40, 40, 8, 8)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("mixture", [A.Mixup, A.CutMix])
def test_labels_say_what_the_images_are_made_of(mixture, per_row):
    for seed in range(10):
        x, y = mixture(1.0, classes=40, per_row=per_row)(PURE, np.arange(40), rng=seed)
        np.testing.assert_allclose(y.sum(1), 1, rtol=1e-12)
        assert y.min() >= 0
        np.testing.assert_allclose(x.mean((2, 3)), y, rtol=0, atol=1e-12)
        shares = y[np.arange(40), np.arange(40)]
        mixed = (y > 0).sum(1) == 2
        if mixed.sum() > 1:
            assert (len(np.unique(shares[mixed].round(9))) > 1) == per_row
        soft = mixture(1.0, per_row=per_row)(PURE, np.eye(40), rng=seed)
        np.testing.assert_array_equal(soft[1], y)


def test_cutmix_puts_one_rectangle_of_one_other_image():
    x, y = A.CutMix(classes=40, per_row=True)(PURE, np.arange(40), rng=1)
    own = x[np.arange(40), np.arange(40)]
    holes(own[:, None])
    assert ((y > 0).sum(1) <= 2).all() and ((y > 0).sum(1) == 2).mean() > 0.5


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_come_from_the_beta_distribution(alpha):
    """Mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    x, n = np.zeros((20_000, 1, 1, 1)), 20_000
    x[: n // 2] = 1
    mixed = A.Mixup(alpha, per_row=True)(x, np.concatenate([x[:, 0, 0], 1 - x[:, 0, 0]], 1), rng=0)[0].ravel()
    # Where a one meets a zero the share can be seen.
    seen = mixed[(mixed > 0) & (mixed < 1)]
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(seen.mean() - 0.5) < 5 * math.sqrt(variance / len(seen))
    assert seen.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: A.Mixup(classes=4)(X), TypeError, "Mixup mixes labels: call it with x and y"),
        (lambda: A.Compose(A.CutMix())(X), TypeError, "Compose mixes labels"),
        (lambda: A.Mixup()(X, Y), TypeError, r"give the number of classes, Mixup\(classes=10\)"),
        (lambda: A.Mixup(classes=3)(X, Y), ValueError, "labels from 0 to 3 for 3 classes"),
        (lambda: A.Mixup(classes=3)(X, Y[:, None]), TypeError, "expected classes"),
        (lambda: A.HorizontalFlip()(X, Y[:3]), ShapeError, "12 images and 3"),
        (lambda: A.HorizontalFlip()(X[0]), ShapeError, r"expected images \(N, C, H, W\), got \(3, 8, 10\)"),
        (lambda: A.RandomCrop(9)(X), ShapeError, r"a window of \(9, 9\) does not fit into images of \(8, 10\)"),
        (lambda: A.HorizontalFlip(1.5), ValueError, "HorizontalFlip: p must be a number from 0 to 1, got 1.5"),
        (lambda: A.RandomCrop(0), ValueError, "size must be a whole number of at least 1"),
        (lambda: A.RandomCrop(3, mode="wrap"), ValueError, "mode must be"),
        (lambda: A.Rotate(200), ValueError, "degrees must be a number from 0 to 180"),
        (lambda: A.RandomResizedCrop(scale=(0.5, 0.1)), ValueError, "0 < least <= most"),
        (lambda: A.RandomResizedCrop(scale=0.5), ValueError, "scale must be"),
        (lambda: A.ColorJitter(2.0), ValueError, "brightness must be a number from 0 to 1"),
        (lambda: A.ColorJitter(clip=(1, 0)), ValueError, "clip must be"),
        (lambda: A.PCALighting().fit(X[:, :1]), ShapeError, "three channels"),
        (lambda: A.PCALighting(white=0), ValueError, "white must be above 0"),
        (lambda: A.Mixup(0), ValueError, "alpha must be above 0"),
        (lambda: A.Compose(np.flip), TypeError, "expected augmentations"),
        (lambda: A.HorizontalFlip()(X, rng="a"), TypeError, "expected a seed"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- in training ----


def test_compose_is_one_after_another():
    first, second = A.RandomCrop(8, 2), A.Mixup(0.5, classes=4)
    generator = np.random.default_rng(6)
    expected = second(*first(X, Y, rng=generator), rng=generator)
    for got, want in zip(A.Compose(first, A.Compose(second))(X, Y, rng=6), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def train(augment, program=True, seed=0, epochs=2):
    model = L.Sequential(L.Conv2d(3, 4, 3, rng=0), L.ReLU(), L.Flatten(), L.Linear(4 * 6 * 8, 4, rng=1))
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.05), rng=seed, program=program)
    history = trainer.fit((X, Y), augment=augment, epochs=epochs, batch_size=5, progress=False)
    return history, model.state()


@pytest.mark.parametrize("augment", [EACH["HorizontalFlip"], EACH["Mixup"], EACH["CutMix per row"]])
def test_training_with_augmentation_is_a_function_of_the_seed(augment):
    history, state = train(augment)
    for other in (train(augment), train(augment, program=False)):
        assert other[0].step_loss == history.step_loss
        for key, value in state.items():
            np.testing.assert_array_equal(other[1][key], value)
    assert train(augment, seed=1)[0].step_loss != history.step_loss
    assert train(None)[0].step_loss != history.step_loss


def test_every_step_is_augmented_anew():
    seen = []

    def augment(x, y, rng):
        seen.append((x.copy(), y.copy(), int(rng.integers(2**62))))
        return x, y

    plain, state = train(None)
    history, other = train(augment)
    assert history.step_loss == plain.step_loss
    for key, value in state.items():
        np.testing.assert_array_equal(other[key], value)
    assert len(seen) == 6 and len({draw for _, _, draw in seen}) == 6
    rows = np.concatenate([x for x, _, _ in seen[:3]])
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.sort(X.ravel()))
    with pytest.raises(TypeError, match="augment must be a function"):
        train(3)


def test_mixed_labels_train_through_cross_entropy():
    """Blobs in two corners, separable: mixup's loss stays above, and the images themselves are told apart."""
    y = np.arange(200) % 2
    x = RNG.standard_normal((200, 1, 4, 4)).astype(np.float32) * 0.3
    x[y == 0, :, :2] += 1
    x[y == 1, :, 2:] += 1
    losses = {}
    for name, augment in (("none", None), ("mixup", A.Mixup(1.0, classes=2)), ("cutmix", A.CutMix(classes=2))):
        trainer = fnn.Trainer(L.Sequential(L.Flatten(), L.Linear(16, 2, rng=0)), optimizer=optim.SGD(lr=0.5), rng=0)
        history = trainer.fit((x, y), augment=augment, epochs=30, batch_size=20, progress=False)
        losses[name] = history.loss[-1]
        assert trainer.evaluate(x, y)["accuracy"] == 1.0
    assert losses["none"] < 0.05 < 0.15 < min(losses["mixup"], losses["cutmix"])


@pytest.mark.parametrize("name", ["Rotate", "CutMix per row", "Compose"])
def test_preview(name, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    for x in (X[:4], X[:4, :1]):
        augment = EACH[name] if not EACH[name].mixes else A.Compose(A.Cutout(2), A.CutMix(per_row=True))
        picture = imread(augment.preview(x, tmp_path / "a.png", samples=3, title=name))
        assert picture.shape[1] == 576 and picture[..., :3].std() > 0.1
    with pytest.raises(ShapeError, match="expected images"):
        EACH["Rotate"].preview(X[:, :2], tmp_path / "b.png")


def test_what_mixes_labels_of_classes_is_previewed(tmp_path):
    pytest.importorskip("matplotlib")
    x = np.random.default_rng(0).random((4, 3, 16, 16), np.float32)
    both = A.Compose(A.HorizontalFlip(), A.CutMix(1.0, classes=10))
    for one in (A.Mixup(0.4, classes=3), both):
        assert fnn.plot.augmented(one, x, tmp_path / "mixed.png").stat().st_size > 10_000
    assert both.augmentations[1].classes == 10
    with pytest.raises(TypeError, match=r"put a \* before a list"):
        A.Compose([A.HorizontalFlip()])
