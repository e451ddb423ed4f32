"""Preprocessing that is fitted on training data and goes into the model: means, standardising, PCA, ZCA.

Transformers as scikit-learn has them (``fit``, ``transform``, ``fit_transform``, ``inverse_transform``,
``get_params``; they work with ``clone`` and in a ``Pipeline``), and beyond that ``as_layer()``: the fitted transformer
as a layer, which is saved with the model and folded into its first layer by `fastnn.compile`. So what the model saw in
training is what it sees at test time.

    pre = fnn.preprocess.ChannelMeanStd().fit(x_train)
    model = Sequential(pre.as_layer(), Conv2d(3, 32, 3), ...)

All statistics are summed in float64. To add a transformer: derive from `Transformer`, and define ``_fit`` and
``as_layer``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import functional as F
from .errors import ShapeError
from .layers.base import Array, Layer
from .layers.container import Sequential
from .layers.preprocess import Normalize, Project

__all__ = ["PCA", "ZCA", "ChannelMean", "ChannelMeanStd", "MeanImage", "Standardize", "Transformer"]

#: rows that are converted to float64 at a time hold so many numbers: 32 MB
_CHUNK = 1 << 22


class Transformer:
    """Base of the transformers of this module, with scikit-learn's protocol; scikit-learn is not needed for it.

    Attributes
    ----------
    shape_ : tuple of int
        Of a row of the data that it was fitted on.
    n_features_in_ : int
        The number of columns, or of channels.
    mean_ : ndarray
        float64.
    """

    mean_: Array
    shape_: tuple[int, ...]

    def _fit(self, x: Array) -> None:
        raise TypeError(f"{type(self).__name__} does not define _fit(x)")

    def as_layer(self, dtype: DTypeLike = np.float32) -> Layer:
        """Return the fitted transformer as a layer of its own arrays."""
        raise TypeError(f"{type(self).__name__} does not define as_layer(dtype)")

    def _inverse(self, x: Array) -> Array:
        raise TypeError(f"{type(self).__name__} does not define _inverse(x)")

    # ---- scikit-learn's protocol ----

    @classmethod
    def _options(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the options that it was made with, by name."""
        return {name: getattr(self, name) for name in self._options()}

    def set_params(self, **options: Any) -> Any:
        """Set options by name; return the transformer."""
        for name, value in options.items():
            if name not in self._options():
                expected = ", ".join(self._options()) or "none"
                raise ValueError(f"{type(self).__name__} has no option {name!r}; there are {expected}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {k: v for k, v in self.get_params().items() if v is not defaults[k].default}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float64", "float32"]),
            input_tags=InputTags(two_d_array=True, three_d_array=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "shape_")

    def fit(self, x: ArrayLike, y: Any = None) -> Any:
        """Compute the statistics of the training data; return the transformer.

        Parameters
        ----------
        x : array_like, (N, ...)
            As the class says.
        y : optional
            Passed over; scikit-learn's pipelines give it.
        """
        array = self._rows("fit", x)
        self._fit(array)
        self.shape_ = array.shape[1:]
        self.n_features_in_ = array.shape[1]
        self._layers: dict[Any, Layer] = {}
        return self

    def _rows(self, what: str, x: Any) -> Array:
        """x as numbers (N, ...), of which there are some."""
        name = f"{type(self).__name__}.{what}"
        if hasattr(x, "toarray"):
            raise TypeError(f"{name}: x is a sparse matrix, which is not supported; give x.toarray()")
        array = np.asarray(x)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
        if array.dtype.kind == "c":
            raise ValueError(f"{name}: Complex data not supported, got {array.dtype}")
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: x has dtype {array.dtype}; expected numbers")
        if array.ndim < 2:
            hint = "Reshape your data by x.reshape(-1, 1) for one feature, x.reshape(1, -1) for one row"
            raise ShapeError(f"{name}: expected rows (N, ...), got {array.shape}; {hint}")
        if not array.size:
            missing = "feature" if len(array) else "sample"
            raise ShapeError(f"{name}: 0 {missing}(s) (shape={array.shape}) while a minimum of 1 is required.")
        return array

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of that shape can be transformed."""
        return shape == self.shape_

    def transform(self, x: ArrayLike) -> Array:
        """Return x transformed: what the layer gives, of x's dtype (float32 for integers).

        Raises
        ------
        ValueError
            Before `fit`, and for NaN or infinite values.
        ShapeError
            For rows of another shape than those of `fit`, but that channels may have any height and width.
        """
        self._need_fit("transform")
        name = type(self).__name__
        array = F._array(f"{name}.transform", "x", self._rows("transform", x))
        if not self._fits(array.shape[1:]):
            if array.ndim == 2 == len(self.shape_) + 1:
                have, want = array.shape[1], self.shape_[0]
                raise ShapeError(
                    f"{name}.transform: X has {have} features, but {name} is expecting {want} features as input"
                )
            raise ShapeError(f"{name}.transform: it was fitted on rows of shape {self.shape_}, got {array.shape[1:]}")
        if not all(np.isfinite(chunk).all() for chunk in _chunks(array, array.dtype)):
            raise ValueError(f"{name}.transform: x has NaN or infinite values")
        if array.dtype not in self._layers:
            self._layers[array.dtype] = self.as_layer(array.dtype)
        return self._layers[array.dtype](array)

    def fit_transform(self, x: ArrayLike, y: Any = None) -> Array:
        """Return ``fit(x).transform(x)``."""
        fitted: Array = self.fit(x, y).transform(x)
        return fitted

    def inverse_transform(self, x: ArrayLike) -> Array:
        """Return what `transform` makes x from; of PCA with fewer components, the nearest to it."""
        self._need_fit("inverse_transform")
        array = F._array(f"{type(self).__name__}.inverse_transform", "x", x)
        return self._inverse(array.astype(np.float64)).astype(array.dtype)

    def _need_fit(self, what: str) -> None:
        if not hasattr(self, "shape_"):
            name = type(self).__name__
            raise ValueError(f"{name}.{what}: it has not been fitted; call {name}(...).fit(x) on training data first")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if "_layers" in state:  # made again when needed
            state["_layers"] = {}
        return state


# ---- sums over many rows ----


def _chunks(x: Array, dtype: DTypeLike = np.float64) -> Iterator[Array]:
    """x a few rows at a time, in a dtype; copies where that is another."""
    rows = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        yield x[start : start + rows].astype(dtype, copy=False)


def _moments(owner: str, x: Array, axes: tuple[int, ...], variance: bool) -> tuple[Array, Array | None]:
    """Mean and variance over axes (the rows among them), in two passes; raise where x is not finite."""
    count = math.prod(x.shape[axis] for axis in axes)
    mean = sum(chunk.sum(axes, keepdims=True) for chunk in _chunks(x)) / count
    assert isinstance(mean, np.ndarray)
    if not np.isfinite(mean).all():
        raise ValueError(f"{owner}.fit: x has NaN or infinite values")
    shape = [n for axis, n in enumerate(mean.shape) if axis not in axes]
    if not variance:
        return mean.reshape(shape), None
    squares = sum(np.square(chunk - mean).sum(axes) for chunk in _chunks(x)) / count
    return mean.reshape(shape), np.asarray(squares)


class _Shifted(Transformer):
    """(x - mean_) / scale_."""

    scale_: Array | None = None

    def as_layer(self, dtype: DTypeLike = np.float32) -> Layer:
        """Return a `fastnn.layers.Normalize`."""
        self._need_fit("as_layer")
        return Normalize(self.mean_, self.scale_, dtype=dtype)

    def _inverse(self, x: Array) -> Array:
        mean, scale = self.mean_, self.scale_
        if mean.ndim == 1:  # of channels
            form = (-1, *[1] * (x.ndim - 2))
            mean, scale = mean.reshape(form), None if scale is None else scale.reshape(form)
        return (x if scale is None else x * scale) + mean

    def _keep(self, mean: Array, variance: Array | None) -> None:
        self.mean_ = mean
        if variance is not None:
            # What does not vary is only shifted; its variance may be the rounding of its mean.
            tiny = (np.finfo(np.float64).eps * np.abs(mean)) ** 2 * 100
            self.scale_ = np.sqrt(np.where(variance > tiny, variance, 1.0))


class MeanImage(_Shifted):
    """Subtract the mean image: the mean of each element over the rows (AlexNet).

    ``fit`` takes (N, ...), images as (N, C, H, W).

    Attributes
    ----------
    mean_ : ndarray, the shape of a row

    References
    ----------
    Krizhevsky et al. 2012; CS231n, "Neural Networks 2: Data preprocessing".

    Examples
    --------
    >>> x = np.float32([[[[0, 4]]], [[[2, 6]]]])
    >>> MeanImage().fit_transform(x).ravel()
    array([-1., -1.,  1.,  1.], dtype=float32)
    """

    def _fit(self, x: Array) -> None:
        self._keep(*_moments("MeanImage", x, (0,), False))


class Standardize(_Shifted):
    """Subtract the mean of each feature (or each element of a row) and divide by its standard deviation.

    Features that do not vary are only shifted. The standard deviation is that of the population (divided by N), as in
    the notes and in scikit-learn's StandardScaler.

    Attributes
    ----------
    mean_, scale_ : ndarray, the shape of a row

    References
    ----------
    CS231n, "Neural Networks 2: Data preprocessing".

    Examples
    --------
    >>> Standardize().fit_transform([[1.0, 5.0], [3.0, 5.0]])
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    def _fit(self, x: Array) -> None:
        self._keep(*_moments("Standardize", x, (0,), True))


class _Channels(_Shifted):
    variance: bool

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape_) and shape[0] == self.shape_[0]

    def _fit(self, x: Array) -> None:
        name = type(self).__name__
        if x.ndim not in (3, 4):
            raise ShapeError(f"{name}.fit: expected images (N, C, H, W), or (N, C, L), got {x.shape}")
        self._keep(*_moments(name, x, (0, *range(2, x.ndim)), self.variance))


class ChannelMean(_Channels):
    """Subtract the mean of each channel, three numbers for colour images (VGG).

    ``fit`` takes (N, C, H, W) or (N, C, L); images of any other height and width may follow.

    Attributes
    ----------
    mean_ : ndarray (C,)

    References
    ----------
    Simonyan and Zisserman, arXiv 1409.1556.

    Examples
    --------
    >>> ChannelMean().fit_transform(np.float32([[[[0, 4]], [[5, 5]]]])).ravel()
    array([-2.,  2.,  0.,  0.], dtype=float32)
    """

    variance = False


class ChannelMeanStd(_Channels):
    """Subtract the mean of each channel and divide by its standard deviation, over all rows and positions (ResNet).

    ``fit`` takes (N, C, H, W) or (N, C, L); images of any other height and width may follow.

    Attributes
    ----------
    mean_, scale_ : ndarray (C,)

    References
    ----------
    He et al. 2016, as most since; CS231n, "Training Neural Networks I".

    Examples
    --------
    >>> ChannelMeanStd().fit_transform(np.float32([[[[0, 4]], [[5, 5]]]])).ravel()
    array([-1.,  1.,  0.,  0.], dtype=float32)
    """

    variance = True


# ---- rotations ----


class _Rotated(Transformer):
    """What rests on the eigenvectors of the covariance."""

    components_: Array
    explained_variance_: Array

    def _decompose(self, x: Array) -> None:
        """Set mean, eigenvectors (k, D) and eigenvalues of the covariance of flattened rows, the largest first."""
        name = type(self).__name__
        flat = x.reshape(len(x), -1)
        mean, _ = _moments(name, flat, (0,), False)
        n, d = flat.shape
        if n < d:
            # The rows span less than the space: their own singular vectors are smaller, and exact to the last digit.
            _, s, vectors = np.linalg.svd(flat.astype(np.float64) - mean, full_matrices=False)
            values = s**2 / n
        else:
            covariance = np.zeros((d, d))
            for chunk in _chunks(flat):
                centred = chunk - mean
                covariance += centred.T @ centred
            values, columns = np.linalg.eigh(covariance / n)
            values, vectors = values[::-1].clip(0), columns.T[::-1]
        # Each vector points to where its largest element is positive: the same signs from any LAPACK.
        signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1))
        self.mean_, self.components_, self.explained_variance_ = mean, vectors * signs, values

    def _scales(self, values: Array, eps: float) -> Array:
        """sqrt(values + eps); raise where a direction has nothing to be scaled by."""
        scales = values + eps
        # Rounding leaves eigenvalues of that size where there should be zero.
        flat = int((scales <= np.finfo(np.float64).eps * max(self._size, 1) * values.max(initial=0.0)).sum())
        if flat:
            raise ValueError(
                f"{type(self).__name__}: {flat} of {len(values)} directions have no variance to divide by; give eps, "
                "such as 1e-5 times the largest variance, or keep fewer components"
            )
        return np.sqrt(scales)

    @property
    def _size(self) -> int:
        return self.components_.shape[1]


def _check_eps(owner: str, eps: Any) -> float:
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.number)) or not 0 <= eps < math.inf:
        raise ValueError(f"{owner}: eps must be a number of at least 0, got {eps!r}")
    return float(eps)


class PCA(_Rotated):
    """Centre, rotate to the principal axes, keep the first of them; whitened, each has variance 1.

    Rows of any shape are taken as vectors; the result is (N, k).

    Parameters
    ----------
    n_components : int or float, optional
        How many axes to keep, or the share of the variance (below 1) that they must hold; all when absent.
    whiten : bool
        Divide each by its standard deviation.
    eps : float
        Added to the variances before that: larger values damp axes that hold noise.

    Attributes
    ----------
    mean_ : ndarray (D,)
    components_ : ndarray (k, D)
    explained_variance_, explained_variance_ratio_ : ndarray (k,)
        Divided by N, as in the notes (scikit-learn divides by N - 1).

    References
    ----------
    CS231n, "Neural Networks 2: Data preprocessing".

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((500, 3)) @ np.diag([5.0, 1.0, 0.1])
    >>> y = PCA(2, whiten=True, eps=0).fit_transform(x)
    >>> np.cov(y.T, bias=True).round(12) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, n_components: int | float | None = None, *, whiten: bool = False, eps: float = 1e-5) -> None:
        self.n_components, self.whiten, self.eps = n_components, whiten, eps

    def _fit(self, x: Array) -> None:
        eps = _check_eps("PCA", self.eps)
        self._count(min(len(x), math.prod(x.shape[1:])), None)
        self._decompose(x)
        total = self.explained_variance_.sum()
        shares = self.explained_variance_ / total if total > 0 else self.explained_variance_
        k = self._count(len(shares), shares)
        self.components_ = self.components_[:k]
        self.explained_variance_, self.explained_variance_ratio_ = self.explained_variance_[:k], shares[:k]
        self.scale_ = self._scales(self.explained_variance_, eps) if self.whiten else np.ones(k)

    def _count(self, most: int, shares: Array | None) -> int:
        """How many components to keep; without shares only whether the option makes sense."""
        n = self.n_components
        if n is None:
            return most
        if isinstance(n, (int, np.integer)) and not isinstance(n, bool) and 1 <= n <= most:
            return int(n)
        if isinstance(n, (float, np.floating)) and 0 < n < 1:
            return most if shares is None else min(most, int(np.searchsorted(shares.cumsum(), n)) + 1)
        raise ValueError(
            f"PCA: n_components must be a whole number from 1 to {most}, a share of the variance between 0 and 1, or "
            f"None, got {n!r}"
        )

    def as_layer(self, dtype: DTypeLike = np.float32) -> Layer:
        """Return a `Sequential` of `fastnn.layers.Normalize`, which centres, and `fastnn.layers.Project`."""
        self._need_fit("as_layer")
        return _centred(self, Project(self.components_ / self.scale_[:, None], dtype=dtype))

    def _inverse(self, x: Array) -> Array:
        return ((x * self.scale_) @ self.components_ + self.mean_).reshape(len(x), *self.shape_)


class ZCA(_Rotated):
    """Whiten and rotate back: decorrelated, of variance 1, and as near to the data as that can be; shapes are kept.

    The covariance of D = C H W elements is decomposed in D^3 steps: 768 take a second, 3,072 up to a minute.

    Parameters
    ----------
    eps : float
        Added to the variances: larger values damp the directions that hold noise. 0 whitens exactly, and needs more
        rows than elements.

    Attributes
    ----------
    mean_ : ndarray (D,)
    components_ : ndarray (k, D)
    explained_variance_ : ndarray (k,)
        Divided by N.

    References
    ----------
    Bell and Sejnowski 1997; Krizhevsky 2009; CS231n, "Neural Networks 2: Data preprocessing".

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((500, 2)) @ [[3.0, 1.0], [1.0, 1.0]]
    >>> y = ZCA(eps=0).fit_transform(x)
    >>> np.cov(y.T, bias=True).round(12) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = eps

    def _fit(self, x: Array) -> None:
        eps = _check_eps("ZCA", self.eps)
        self._decompose(x)
        d = self._size
        if len(self.components_) < d and eps == 0:
            raise ValueError(f"ZCA: {len(x)} rows do not span {d} dimensions; give eps, or more rows")
        self.scale_ = self._scales(self.explained_variance_, eps)
        self._rest = 1 / math.sqrt(eps) if len(self.components_) < d else 0.0

    def _matrix(self, scale: Array, rest: float) -> Array:
        """components.T diag(scale) components, and rest times what they do not span."""
        v = self.components_
        matrix = (v.T * scale) @ v
        return matrix if rest == 0 else matrix + rest * (np.eye(self._size) - v.T @ v)

    def as_layer(self, dtype: DTypeLike = np.float32) -> Layer:
        """Return a `Sequential` of `fastnn.layers.Normalize`, which centres, and `fastnn.layers.Project`."""
        self._need_fit("as_layer")
        matrix = self._matrix(1 / self.scale_, self._rest)
        return _centred(self, Project(matrix, shape=self.shape_, dtype=dtype))

    def _inverse(self, x: Array) -> Array:
        back = self._matrix(self.scale_, 1 / self._rest if self._rest else 0.0)
        return (x.reshape(len(x), -1) @ back + self.mean_).reshape(len(x), *self.shape_)


def _centred(pre: Transformer, then: Project) -> Layer:
    centre = Normalize(pre.mean_.reshape(pre.shape_), dtype=then.matrix.dtype)
    return Sequential({"centre": centre, "rotate": then})
