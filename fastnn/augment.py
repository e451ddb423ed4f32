"""Augmentation of batches of images, for training: flips, crops, rotations, colours, holes, mixtures.

    augment = Compose(HorizontalFlip(), RandomCrop(32, padding=4), Cutout(8))
    x2 = augment(x, rng=0)                                  # images alone
    trainer.fit((x, y), augment=augment, epochs=100)        # new images at every step

An augmentation takes images (N, C, H, W) and returns new ones; what it was given stays as it is. Every row draws for
itself, from ``rng``: the same seed gives the same bits. `Mixup` and `CutMix` mix labels too and give them as
probabilities, which ``cross_entropy`` takes.

To add one: derive from `Augmentation` and define ``_images(x, rng)``, or ``_both(x, y, rng)`` where labels change.
Everything is done for the whole batch at once; loops over rows have no place here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from . import functional as F
from .errors import ShapeError
from .layers.base import Array
from .random import as_generator

__all__ = [
    "Augmentation",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "HorizontalFlip",
    "Mixup",
    "PCALighting",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "Rotate",
    "Translate",
    "VerticalFlip",
]

#: images that are resampled at a time hold so many numbers: what belongs to them stays in the cache
_CHUNK = 1 << 16

#: how bright red, green and blue look (ITU-R BT.601)
_GREY = np.array([0.299, 0.587, 0.114])
#: RGB to YIQ, in which a rotation of the last two is one of the hue
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class Augmentation:
    """Base of all augmentations: call it with a batch, and with its labels where there are any."""

    #: the options, for repr
    options: tuple[str, ...] = ()
    #: whether labels are mixed, and so must be given
    mixes = False

    def __call__(self, x: ArrayLike, y: Any = None, *, rng: int | np.random.Generator | None = None) -> Any:
        """Return new images, and beside them the labels where they were given.

        Parameters
        ----------
        x : array_like (N, C, H, W)
            Integers become float32.
        y : array_like, optional
            Labels; returned as they are by all but `Mixup` and `CutMix`.
        rng : int or numpy.random.Generator, optional
            A seed, or the generator to draw from; from the system when absent.

        Returns
        -------
        x : ndarray (N, C, H, W)
            Or (x, y).
        """
        name = type(self).__name__
        images = F._array(name, "x", x)
        if images.ndim != 4:
            raise ShapeError(f"{name}: expected images (N, C, H, W), got {images.shape}")
        if y is None:
            if self.mixes:
                raise TypeError(f"{name} mixes labels: call it with x and y")
            return self._images(images, as_generator(rng))
        if len(np.asarray(y)) != len(images):
            raise ShapeError(f"{name}: one label for each image, got {len(images)} images and {len(np.asarray(y))}")
        return self._both(images, y, as_generator(rng))

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        raise TypeError(f"{type(self).__name__} does not define _images(x, rng)")

    def _both(self, x: Array, y: Any, rng: np.random.Generator) -> tuple[Array, Any]:
        return self._images(x, rng), y

    def preview(
        self, x: ArrayLike, path: str | Path, *, rng: int | np.random.Generator = 0, samples: int = 8, title: str = ""
    ) -> Path:
        """Write a picture: each image of x, and beside it what becomes of it so many times.

        Parameters
        ----------
        x : array_like (N, C, H, W)
            A few images, of one channel or three.
        path : path
            A PNG.
        rng : int or numpy.random.Generator
        samples : int
        title : str
        """
        from . import plot

        return plot.augmented(self, x, path, rng=rng, samples=samples, title=title)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.options)})"


class Compose(Augmentation):
    """One augmentation after another.

    Parameters
    ----------
    *augmentations : Augmentation

    Examples
    --------
    >>> augment = Compose(HorizontalFlip(), RandomCrop(4, padding=1))
    >>> augment(np.ones((2, 3, 4, 4), np.float32), rng=0).shape
    (2, 3, 4, 4)
    """

    def __init__(self, *augmentations: Augmentation) -> None:
        for one in augmentations:
            if not isinstance(one, Augmentation):
                hint = "; put a * before a list of them" if isinstance(one, (list, tuple)) else ""
                raise TypeError(f"Compose: expected augmentations, got {one!r}{hint}")
        self.augmentations = augmentations

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether one of them does."""
        return any(one.mixes for one in self.augmentations)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        for one in self.augmentations:
            x = one._images(x, rng)
        return x

    def _both(self, x: Array, y: Any, rng: np.random.Generator) -> tuple[Array, Any]:
        for one in self.augmentations:
            x, y = one._both(x, y, rng)
        return x, y

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.augmentations))})"


# ---- options ----


def _number(owner: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not low <= value <= high:
        bounds = f" from {low:g} to {high:g}" if math.isfinite(low + high) else f" of at least {low:g}"
        raise ValueError(f"{owner}: {name} must be a number{bounds if math.isfinite(low) else ''}, got {value!r}")
    return float(value)


def _interval(owner: str, name: str, value: Any, low: float, high: float = math.inf) -> tuple[float, float]:
    """(least, most), both above 0 and at most high."""
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{owner}: {name} must be (least, most), got {value!r}")
    least, most = (_number(owner, name, v, low, high) for v in value)
    if not 0 < least <= most:
        raise ValueError(f"{owner}: {name} must be (least, most) with 0 < least <= most, got {value!r}")
    return least, most


def _pair(owner: str, name: str, value: Any, least: int) -> tuple[int, int]:
    given = value if isinstance(value, Sequence) else (value, value)
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= least for v in given)
    if len(given) != 2 or not whole:
        raise ValueError(f"{owner}: {name} must be a whole number of at least {least}, or two, got {value!r}")
    return int(given[0]), int(given[1])


# ---- moves ----


class _Flip(Augmentation):
    options = ("p",)
    axis: int

    def __init__(self, p: float = 0.5) -> None:
        self.p = _number(type(self).__name__, "p", p, 0, 1)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        chosen = rng.random(len(x)) < self.p
        y = np.array(x, order="C")
        y[chosen] = np.flip(x, self.axis)[chosen]
        return y


class HorizontalFlip(_Flip):
    """Mirror left and right, with probability p.

    Examples
    --------
    >>> HorizontalFlip(p=1.0)(np.float32([[[[1, 2, 3]]]]))
    array([[[[3., 2., 1.]]]], dtype=float32)
    """

    axis = 3


class VerticalFlip(_Flip):
    """Mirror top and bottom, with probability p: for images that have no up and down."""

    axis = 2


def _padded(x: Array, above: tuple[int, int], mode: str, fill: float) -> Array:
    """x with so many rows and columns more on every side."""
    margin = ((0, 0), (0, 0), (above[0],) * 2, (above[1],) * 2)
    if not any(above):
        return x
    return np.pad(x, margin, "constant", constant_values=fill) if mode == "constant" else np.pad(x, margin, mode)  # type: ignore[call-overload]


def _windows(x: Array, top: Array, left: Array, size: tuple[int, int]) -> Array:
    """Out of each image the window of that size at (top, left)."""
    return np.ascontiguousarray(sliding_window_view(x, size, (2, 3))[np.arange(len(x)), :, top, left])


class RandomCrop(Augmentation):
    """A window of that size at a random place, after padding; all places are equally likely.

    ``RandomCrop(32, padding=4)`` is the augmentation of CIFAR-10 in He et al. 2016.

    Parameters
    ----------
    size : int or (int, int)
    padding : int or (int, int)
        Rows and columns that are added on every side first.
    mode : str
        What they hold: "constant" (``fill``), "edge" or "reflect".
    fill : float

    Examples
    --------
    >>> RandomCrop(2)(np.arange(9.0).reshape(1, 1, 3, 3), rng=0)
    array([[[[4., 5.],
             [7., 8.]]]])
    """

    options = ("size", "padding", "mode", "fill")

    def __init__(self, size: Any, padding: Any = 0, *, mode: str = "constant", fill: float = 0.0) -> None:
        self.size, self.padding = _pair("RandomCrop", "size", size, 1), _pair("RandomCrop", "padding", padding, 0)
        if mode not in ("constant", "edge", "reflect"):
            raise ValueError(f"RandomCrop: mode must be 'constant', 'edge' or 'reflect', got {mode!r}")
        self.mode, self.fill = mode, _number("RandomCrop", "fill", fill)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        wide = _padded(x, self.padding, self.mode, self.fill)
        rooms = [have - want for have, want in zip(wide.shape[2:], self.size, strict=True)]
        if min(rooms) < 0:
            raise ShapeError(f"RandomCrop: a window of {self.size} does not fit into images of {wide.shape[2:]}")
        top, left = (rng.integers(0, room + 1, len(x)) for room in rooms)
        return _windows(wide, top, left, self.size)


class Translate(Augmentation):
    """Move by whole pixels, up to a limit in each direction; what comes in is filled. All moves are equally likely.

    Parameters
    ----------
    limit : int or (int, int)
        The most rows, and columns.
    fill : float

    Examples
    --------
    >>> Translate((0, 1))(np.float32([[[[1, 2, 3]]]]), rng=2)
    array([[[[2., 3., 0.]]]], dtype=float32)
    """

    options = ("limit", "fill")

    def __init__(self, limit: Any, *, fill: float = 0.0) -> None:
        self.limit, self.fill = _pair("Translate", "limit", limit, 0), _number("Translate", "fill", fill)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        top, left = (rng.integers(0, 2 * most + 1, len(x)) for most in self.limit)
        return _windows(_padded(x, self.limit, "constant", self.fill), top, left, x.shape[2:])


# ---- resampling ----


def _resampled(x: Array, matrices: Array, fill: float) -> Array:
    """Images whose pixel p reads x at matrix @ p, both from the centre, between four pixels; outside x lies fill.

    matrices (N, 2, 2), rows and columns.
    """
    n, c, h, w = x.shape
    out = np.empty(x.shape, x.dtype)
    oy, ox = (np.arange(s, dtype=x.dtype) - (s - 1) / 2 for s in (h, w))
    # A margin of fill: what lies outside reads it, wherever it lies; a second one below for its lower neighbour.
    wide = np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 2)), "constant", constant_values=fill)
    width, plane = w + 3, (h + 3) * (w + 3)
    step = max(1, _CHUNK // max(1, c * plane))
    for start in range(0, n, step):
        m = matrices[start : start + step, :, :, None, None].astype(x.dtype)
        part = wide[start : start + step].reshape(-1)
        index = np.empty((len(m), h, w), np.intp)
        index[...] = (np.arange(len(m)) * (c * plane) + width + 1)[:, None, None]
        shares = []
        for axis, (extent, stride) in enumerate(((h, width), (w, 1))):
            at = m[:, axis, 0] * oy[:, None] + m[:, axis, 1] * ox
            at += (extent - 1) / 2
            np.clip(at, -1, extent, out=at)
            below = np.floor(at)
            shares.append(at - below)
            index += below.astype(np.intp) * stride
        y, x_ = shares
        weights = (1 - y) * (1 - x_), (1 - y) * x_, y * (1 - x_), y * x_
        for channel in range(c):
            total = None
            for corner, weight in zip((0, 1, width, width + 1), weights, strict=True):
                read = np.take(part[channel * plane + corner :], index, mode="clip")
                read *= weight
                total = read if total is None else np.add(total, read, out=total)
            out[start : start + step, channel] = total
    return out


def _scaled(x: Array, first: Array, extents: Array, size: tuple[int, int]) -> Array:
    """The windows (N, 2) of x, from ``first`` and so large, scaled to a size; along one axis after the other."""
    shape, flat = list(x.shape), np.ascontiguousarray(x)
    n = len(x)
    for axis, target in ((2, size[0]), (3, size[1])):
        have, lines = shape[axis], math.prod(shape[1:axis])  # lines along the axis in each image
        at = (np.arange(target) + 0.5) * (extents[:, axis - 2] / target)[:, None] + first[:, axis - 2, None] - 0.5
        np.clip(at, 0, have - 1, out=at)
        below = np.minimum(np.floor(at).astype(np.intp), max(have - 2, 0))
        share = (at - below).astype(x.dtype)[:, None, :]
        index = np.arange(n * lines).reshape(n, lines, 1) * have + below[:, None, :]
        # Whole rows first, then single elements. The neighbour above lies one further, where there is one.
        flat = flat.reshape(n * lines * have, *([shape[3]] if axis == 2 else []))
        low = np.take(flat, index, axis=0, mode="clip")
        high = np.take(flat[1:] if have > 1 else flat, index, axis=0, mode="clip")
        high -= low
        high *= share[..., None] if axis == 2 else share
        low += high
        flat, shape[axis] = low, target
    return flat.reshape(shape)


class Rotate(Augmentation):
    """Turn about the centre by an angle between -degrees and degrees, each as likely; between pixels by bilinear means.

    Parameters
    ----------
    degrees : float
        Up to 180.
    fill : float
        What comes in from outside.

    Examples
    --------
    >>> Rotate(15)(np.zeros((2, 3, 8, 8), np.float32), rng=0).shape
    (2, 3, 8, 8)
    """

    options = ("degrees", "fill")

    def __init__(self, degrees: float, *, fill: float = 0.0) -> None:
        self.degrees, self.fill = _number("Rotate", "degrees", degrees, 0, 180), _number("Rotate", "fill", fill)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        return rotated(x, rng.uniform(-self.degrees, self.degrees, len(x)), self.fill)


def rotated(x: Array, degrees: Array, fill: float = 0.0) -> Array:
    """Return each image turned about its centre, against the clock; outside is fill.

    Examples
    --------
    >>> rotated(np.float32([[[[1, 2], [3, 4]]]]), np.array([90]))
    array([[[[2., 4.],
             [1., 3.]]]], dtype=float32)
    """
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return _resampled(x, np.stack([cos, sin, -sin, cos], 1).reshape(-1, 2, 2), fill)


class RandomResizedCrop(Augmentation):
    """A window of random area and shape at a random place, scaled to one size: crop and scale, as for ImageNet.

    Area and the logarithm of width : height are drawn evenly; a window that does not fit is drawn anew, up to ten
    times, then it is the largest in the middle.

    Parameters
    ----------
    size : int or (int, int), optional
        That of the images when absent.
    scale : (float, float)
        The window's share of the area.
    ratio : (float, float)
        Its width : height.

    References
    ----------
    Szegedy et al. 2015; CS231n: "random crops and scales".

    Examples
    --------
    >>> RandomResizedCrop(4)(np.zeros((2, 3, 8, 8), np.float32), rng=0).shape
    (2, 3, 4, 4)
    """

    options = ("size", "scale", "ratio")

    def __init__(
        self, size: Any = None, *, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        self.size = None if size is None else _pair("RandomResizedCrop", "size", size, 1)
        self.scale = _interval("RandomResizedCrop", "scale", scale, 0, 1)
        self.ratio = _interval("RandomResizedCrop", "ratio", ratio, 0)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        n, _, h, w = x.shape
        size = self.size or (h, w)
        tall, wide, fits = _boxes(n, (h, w), self.scale, self.ratio, rng)
        # The largest of the nearest shape.
        shape = min(max(w / h, self.ratio[0]), self.ratio[1])
        tall = np.where(fits, tall, min(h, w / shape))
        wide = np.where(fits, wide, min(w, h * shape))
        place = np.where(fits[:, None], rng.random((n, 2)), 0.5)
        extents = np.stack([tall, wide], 1)
        return _scaled(x, place * (np.array([h, w]) - extents), extents, size)


def _boxes(
    n: int,
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
    tries: int = 10,
) -> tuple[Array, Array, Array]:
    """Heights and widths of boxes that fit into a shape, and which of them do after some tries."""
    h, w = shape
    area = h * w * rng.uniform(*scale, (tries, n))
    shapes = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (tries, n)))
    tall, wide = np.sqrt(area / shapes), np.sqrt(area * shapes)
    fit = (tall <= h) & (wide <= w)
    first, rows = fit.argmax(0), np.arange(n)
    return tall[first, rows], wide[first, rows], np.asarray(fit.any(0))


# ---- colours ----


def _three(owner: str, x: Array) -> None:
    if x.shape[1] != 3:
        raise ShapeError(f"{owner}: expected images of three channels (N, 3, H, W), got {x.shape}")


class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue, each by a factor of its own for every image.

    In that order: x times the brightness; away from its mean grey by the contrast; away from each pixel's grey by the
    saturation; turned about the axis of greys by the hue. The factors are drawn evenly from 1 - option to 1 + option.

    Parameters
    ----------
    brightness, contrast, saturation : float
        From 0, which changes nothing, to 1.
    hue : float
        The most to turn, as a share of the circle of hues; up to 0.5.
    clip : (float, float), optional
        The range of the images, such as (0, 1). None leaves what lies outside; right for images that have been
        standardised.

    References
    ----------
    CS231n: "color jitter"; torchvision draws from the same ranges.

    Examples
    --------
    >>> ColorJitter(0.4, 0.4, 0.4)(np.ones((2, 3, 4, 4), np.float32), rng=0).shape
    (2, 3, 4, 4)
    """

    options = ("brightness", "contrast", "saturation", "hue", "clip")

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        *,
        clip: tuple[float, float] | None = None,
    ) -> None:
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        checked = (_number("ColorJitter", name, value, 0, 1) for name, value in given.items())
        self.brightness, self.contrast, self.saturation = checked
        self.hue = _number("ColorJitter", "hue", hue, 0, 0.5)
        if clip is not None and (len(clip) != 2 or not clip[0] < clip[1]):
            raise ValueError(f"ColorJitter: clip must be (low, high), got {clip!r}")
        self.clip = None if clip is None else (float(clip[0]), float(clip[1]))

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        n, c = x.shape[:2]
        if self.saturation or self.hue:
            _three("ColorJitter", x)
        mosts = self.brightness, self.contrast, self.saturation
        bright, contrast, saturation = rng.uniform(-1, 1, (3, n)) * np.reshape(mosts, (3, 1)) + 1
        angle: Array = np.asarray(rng.uniform(-self.hue, self.hue, n) * (2 * math.pi))
        flat = np.ascontiguousarray(x).reshape(n, c, math.prod(x.shape[2:]))
        means = flat.mean(2, dtype=np.float64)
        grey = means @ _GREY if c == 3 else means.mean(1)
        # All four are linear, and leave greys grey but for their size: one matrix, and what the contrast adds.
        factor, added = bright * contrast, (1 - contrast) * bright * grey
        if c == 3:
            colours = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * _GREY
            matrix = _turned(angle) @ colours if self.hue else colours
            y = np.matmul((factor[:, None, None] * matrix).astype(x.dtype), flat)
        else:
            y = flat * factor.astype(x.dtype)[:, None, None]
        y += added.astype(x.dtype)[:, None, None]
        if self.clip is not None:
            np.clip(y, *self.clip, out=y)
        return y.reshape(x.shape)


def _turned(angle: Array) -> Array:
    """Matrices (N, 3, 3) that turn the hue of RGB by an angle; greys stay as they are."""
    turn = np.zeros((len(angle), 3, 3))
    cos, sin = np.cos(angle), np.sin(angle)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
    matrices: Array = np.linalg.inv(_YIQ) @ turn @ _YIQ
    return matrices


class PCALighting(Augmentation):
    """Add to every pixel of an image a random sum of the principal components of colour (AlexNet).

    The sum of a_i v_i c_i over the components c_i, with v_i their variance in the training images and a_i drawn from a
    normal distribution for each image: what changes when the light does.

    Parameters
    ----------
    std : float
        Of a_i.
    white : float
        The value of white: 1, or 255 for bytes. The variances count in its square, the change in itself.

    Attributes
    ----------
    components_ : ndarray (3, 3)
        One in each row.
    variances_ : ndarray (3,)

    References
    ----------
    Krizhevsky et al. 2012; CS231n: "color jitter: apply PCA to all [R, G, B] pixels in training set".

    Examples
    --------
    >>> x = np.random.default_rng(0).random((8, 3, 4, 4), np.float32)
    >>> PCALighting().fit(x)(x, rng=0).shape
    (8, 3, 4, 4)
    """

    options = ("std", "white")

    def __init__(self, std: float = 0.1, *, white: float = 1.0) -> None:
        self.std = _number("PCALighting", "std", std, 0)
        self.white = _number("PCALighting", "white", white, 0)
        if not self.white:
            raise ValueError("PCALighting: white must be above 0")

    def fit(self, x: ArrayLike) -> PCALighting:
        """Find the components of the pixels of the training images (N, 3, H, W); return the augmentation."""
        from .preprocess import PCA

        images = F._array("PCALighting.fit", "x", x)
        if images.ndim != 4 or not images.size:
            raise ShapeError(f"PCALighting.fit: expected images (N, 3, H, W), got {images.shape}")
        _three("PCALighting.fit", images)
        found = PCA().fit(images.transpose(0, 2, 3, 1).reshape(-1, 3))
        self.components_, self.variances_ = found.components_, found.explained_variance_
        return self

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        if not hasattr(self, "components_"):
            raise RuntimeError("PCALighting: it has not been fitted; call PCALighting(...).fit(x) on training images")
        _three("PCALighting", x)
        a = rng.normal(0, self.std, (len(x), len(self.variances_)))
        change = (a * (self.variances_ / self.white)) @ self.components_
        return np.ascontiguousarray(x + change.astype(x.dtype)[:, :, None, None])


# ---- holes ----


def _inside(size: int, first: Array, last: Array) -> Array:
    """(N, size): which places lie from first to before last."""
    at = np.arange(size)
    return (at >= first[:, None]) & (at < last[:, None])


class Cutout(Augmentation):
    """Fill a square at a random place, which may reach over the border: its centre is anywhere in the image.

    Parameters
    ----------
    size : int or (int, int)
        Height and width.
    fill : float
        0 is the mean of images that have been centred.

    References
    ----------
    DeVries and Taylor, arXiv 1708.04552.

    Examples
    --------
    >>> int((Cutout(2)(np.ones((1, 1, 4, 4), np.float32), rng=0) == 0).sum())
    4
    """

    options = ("size", "fill")

    def __init__(self, size: Any, *, fill: float = 0.0) -> None:
        self.size, self.fill = _pair("Cutout", "size", size, 1), _number("Cutout", "fill", fill)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        masks = []
        for extent, size in zip(x.shape[2:], self.size, strict=True):
            first = rng.integers(0, extent, len(x)) - size // 2
            masks.append(_inside(extent, first, first + size))
        hole = masks[0][:, None, :, None] & masks[1][:, None, None, :]
        return np.where(hole, x.dtype.type(self.fill), x)


class RandomErasing(Augmentation):
    """With probability p, fill a rectangle of random area and shape that lies inside the image.

    Parameters
    ----------
    p : float
    scale : (float, float)
        Its share of the area.
    ratio : (float, float)
        Its width : height.
    fill : float or "noise"
        A value, or normal noise for every element.

    References
    ----------
    Zhong et al., arXiv 1708.04896.

    Examples
    --------
    >>> RandomErasing(1.0)(np.ones((2, 3, 8, 8), np.float32), rng=0).min()
    np.float32(0.0)
    """

    options = ("p", "scale", "ratio", "fill")

    def __init__(
        self,
        p: float = 0.5,
        *,
        scale: tuple[float, float] = (0.02, 1 / 3),
        ratio: tuple[float, float] = (0.3, 10 / 3),
        fill: float | str = 0.0,
    ) -> None:
        self.p = _number("RandomErasing", "p", p, 0, 1)
        self.scale = _interval("RandomErasing", "scale", scale, 0, 1)
        self.ratio = _interval("RandomErasing", "ratio", ratio, 0)
        self.fill = fill if fill == "noise" else _number("RandomErasing", "fill", fill)

    def _images(self, x: Array, rng: np.random.Generator) -> Array:
        n, _, h, w = x.shape
        chosen = rng.random(n) < self.p
        tall, wide, fits = _boxes(n, (h, w), self.scale, self.ratio, rng)
        place = rng.random((2, n))
        masks = []
        for extent, size, at in ((h, tall, place[0]), (w, wide, place[1])):
            whole = np.clip(np.rint(size), 1, extent).astype(int)
            first = np.floor(at * (extent - whole + 1)).astype(int)
            masks.append(_inside(extent, first, first + whole))
        hole = masks[0][:, None, :, None] & masks[1][:, None, None, :] & (chosen & fits)[:, None, None, None]
        if self.fill != "noise":
            return np.where(hole, x.dtype.type(self.fill), x)
        y, every = np.array(x, order="C"), np.broadcast_to(hole, x.shape)
        y[every] = rng.standard_normal(int(hole.sum()) * x.shape[1], x.dtype)
        return y


# ---- mixtures ----


class _Mixture(Augmentation):
    """What mixes every image with another of the batch, and their labels as much."""

    options = ("alpha", "classes", "per_row")
    mixes = True

    def __init__(self, alpha: float, classes: int | None = None, *, per_row: bool = False) -> None:
        name = type(self).__name__
        self.alpha = _number(name, "alpha", alpha, 0)
        if not self.alpha:
            raise ValueError(f"{name}: alpha must be above 0")
        if classes is not None and (
            isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 1
        ):
            raise ValueError(f"{name}: classes must be a whole number of at least 1, got {classes!r}")
        self.classes = None if classes is None else int(classes)
        self.per_row = bool(per_row)

    def _shares(self, n: int, rng: np.random.Generator) -> Array:
        """How much each image keeps of itself."""
        return rng.beta(self.alpha, self.alpha, n) if self.per_row else np.full(n, rng.beta(self.alpha, self.alpha))

    def _probabilities(self, y: Any, dtype: Any) -> Array:
        """Labels as probabilities (N, classes)."""
        name, labels = type(self).__name__, np.asarray(y)
        if labels.ndim == 2 and labels.dtype.kind == "f":
            if self.classes is not None and labels.shape[1] != self.classes:
                raise ShapeError(f"{name}: probabilities {labels.shape} for {self.classes} classes")
            return labels.astype(dtype)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected classes (N,) or probabilities (N, C), got {labels.dtype} {labels.shape}")
        if self.classes is None:
            raise TypeError(f"{name}: give the number of classes, {name}(classes=10), or labels as probabilities")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"{name}: labels from {labels.min()} to {labels.max()} for {self.classes} classes")
        return np.eye(self.classes, dtype=dtype)[labels]


class Mixup(_Mixture):
    """Mix every image with another, share : 1 - share, and their labels alike; the share is drawn from Beta(a, a).

    Parameters
    ----------
    alpha : float
        Small values mix little: 0.2 for large sets of images, 1 for small ones.
    classes : int, optional
        How many there are; needed where labels come as classes.
    per_row : bool
        A share for every image instead of one for the batch.

    References
    ----------
    Zhang et al., arXiv 1710.09412; CS231n: "Cutout and mixup for small classification datasets".

    Examples
    --------
    >>> x, y = Mixup(1.0, classes=3)(np.zeros((4, 1, 2, 2), np.float32), [0, 1, 2, 0], rng=0)
    >>> y.sum(1)
    array([1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, alpha: float = 0.2, classes: int | None = None, *, per_row: bool = False) -> None:
        super().__init__(alpha, classes, per_row=per_row)

    def _both(self, x: Array, y: Any, rng: np.random.Generator) -> tuple[Array, Any]:
        labels = self._probabilities(y, x.dtype)
        shares, other = self._shares(len(x), rng), rng.permutation(len(x))
        own, rest = (s.astype(x.dtype) for s in (shares, 1 - shares))
        mixed = x * own[:, None, None, None] + x[other] * rest[:, None, None, None]
        return np.ascontiguousarray(mixed), labels * own[:, None] + labels[other] * rest[:, None]


class CutMix(_Mixture):
    """Put a rectangle of another image into every image; labels are mixed by the areas.

    The rectangle has the image's shape and, but for what lies over the border, the area 1 - share, which is drawn from
    Beta(a, a); its centre is anywhere.

    Parameters
    ----------
    alpha : float
    classes : int, optional
        How many there are; needed where labels come as classes.
    per_row : bool
        A rectangle for every image instead of one for the batch.

    References
    ----------
    Yun et al., arXiv 1905.04899.

    Examples
    --------
    >>> x, y = CutMix(classes=3)(np.zeros((4, 1, 2, 2), np.float32), [0, 1, 2, 0], rng=0)
    >>> y.sum(1)
    array([1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0, classes: int | None = None, *, per_row: bool = False) -> None:
        super().__init__(alpha, classes, per_row=per_row)

    def _both(self, x: Array, y: Any, rng: np.random.Generator) -> tuple[Array, Any]:
        labels = self._probabilities(y, x.dtype)
        n = len(x)
        side = np.sqrt(1 - self._shares(n, rng))
        other = rng.permutation(n)
        masks = []
        for extent in x.shape[2:]:
            centre = rng.integers(0, extent, n) if self.per_row else np.full(n, rng.integers(0, extent))
            size = np.floor(extent * side).astype(int)
            masks.append(_inside(extent, centre - size // 2, centre - size // 2 + size))
        cut = masks[0][:, None, :, None] & masks[1][:, None, None, :]
        rest = (masks[0].mean(1) * masks[1].mean(1)).astype(x.dtype)
        return np.where(cut, x[other], x), labels * (1 - rest)[:, None] + labels[other] * rest[:, None]
