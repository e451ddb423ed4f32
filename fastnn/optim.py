"""Optimizers: what a step does, as settings; what it remembers lies in arrays that the caller keeps.

An optimizer describes its update. Parameters, gradients and slots are flat buffers owned by the trainer, and one step
is one kernel call over one buffer. To add an optimizer: a step function in ``functional.py`` and a class here that
fills ``hyper`` in the kernel's layout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from . import functional as F

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSProp"]


def _number(where: str, name: str, value: Any, low: float, below: float, rule: str) -> float:
    """value as a float with low <= value < below."""
    try:
        number = float(value) if not isinstance(value, str) else None
    except OverflowError:  # a whole number beyond every float
        number = math.inf
    except (TypeError, ValueError):
        number = None
    if number is None:
        came = repr(value) if isinstance(value, str) else type(value).__name__
        hint = "; parameters are given to the Trainer, with the model" if isinstance(value, Mapping) else ""
        raise TypeError(f"{where}: {name} must be a number, got {came}{hint}")
    if not low <= number < below:
        raise ValueError(f"{where}: {name} must be {rule}, got {value!r}")
    return number


class Optimizer(ABC):
    """What all optimizers share: settings, a persistent ``hyper`` array, slots and segments.

    Only ``lr`` may change between steps (``optimizer.lr = 0.01``). An optimizer serves one trainer at a time, because
    a recorded program reads the hyper array at its address; give another trainer a `copy`.

    Raises
    ------
    ValueError, TypeError
        For a setting that is negative, NaN, infinite, out of its range or no number; when it is given.
    """

    #: names of the arrays remembered for each parameter, in the kernel's order
    slot_names: tuple[str, ...] = ()
    #: names of the settings, which are constructor arguments and what `state` holds
    settings: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr = lr
        self._weight_decay = self._at_least_0("weight_decay", weight_decay)
        self._hyper = np.zeros(0)

    def _at_least_0(self, name: str, value: Any) -> float:
        return _number(type(self).__name__, name, value, 0.0, math.inf, "finite and at least 0")

    def _below_1(self, name: str, value: Any) -> float:
        return _number(type(self).__name__, name, value, 0.0, 1.0, "at least 0 and below 1")

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = self._at_least_0("lr", value)

    @property
    def weight_decay(self) -> float:
        """The weight decay that `segments` gives to each parameter."""
        return self._weight_decay

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.settings)})"

    def copy(self) -> Optimizer:
        """Return an optimizer with the same settings and a hyper array of its own."""
        return type(self)(**{name: getattr(self, name) for name in self.settings})

    # ---- what the trainer asks for ----

    def slots(self, n: int, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
        """Return what a step remembers of n parameters: arrays (n,) of zeros by name."""
        return {name: np.zeros(n, dtype) for name in self.slot_names}

    def segments(
        self, sizes: Sequence[int], *, rate: Sequence[float] | None = None, decay: Sequence[float] | None = None
    ) -> np.ndarray:
        """Return the segments of parameters that lie one after another in a buffer.

        Parameters
        ----------
        sizes : sequence of int
            The number of elements of each parameter.
        rate : sequence of float, optional
            Factor of the learning rate for each; 0 freezes. Default 1.
        decay : sequence of float, optional
            Factor of ``weight_decay`` for each. Default 1.

        Returns
        -------
        ndarray (n, 4) of float64
            Rows (begin, end, rate, weight decay).

        Examples
        --------
        >>> SGD(0.1, weight_decay=0.01).segments([6, 2], decay=[1, 0])
        array([[0.  , 6.  , 1.  , 0.01],
               [6.  , 8.  , 1.  , 0.  ]])
        """
        result = np.ones((len(sizes), 4))
        ends = np.cumsum(sizes)
        result[:, 0], result[:, 1] = ends - np.asarray(sizes), ends
        for column, name, factors in ((2, "rate", rate), (3, "decay", decay)):
            if factors is None:
                continue
            if len(factors) != len(sizes):
                raise ValueError(f"{type(self).__name__}: {len(factors)} factors of {name} for {len(sizes)} parameters")
            result[:, column] = [self._at_least_0(f"{name} of a segment", factor) for factor in factors]
        result[:, 3] *= self._weight_decay
        return result

    def hyper(self, lr: float | None = None, step: int = 1) -> np.ndarray:
        """Write the settings of one step and return them: always the same float64 array, in the kernel's layout.

        Parameters
        ----------
        lr : float, optional
            The learning rate of this step, where a schedule changes it; default ``self.lr``.
        step : int
            The number of this step, from 1.
        """
        rate = self._lr if lr is None else self._at_least_0("lr", lr)
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 1:
            raise ValueError(f"{type(self).__name__}: step must be a whole number from 1, got {step!r}")
        self._hyper[:] = self._hyper_values(rate, int(step))
        return self._hyper

    def step(
        self,
        param: np.ndarray,
        grad: np.ndarray,
        slots: Mapping[str, np.ndarray],
        segments: np.ndarray,
        *,
        count: int | None = None,
    ) -> None:
        """Update a flat buffer of parameters and its slots in place.

        Parameters
        ----------
        param, grad : ndarray (n,)
            float32 or float64, contiguous.
        slots : dict of ndarray (n,)
            As made by `slots`.
        segments : ndarray (n_segments, 4) of float64
            As made by `segments`.
        count : int, optional
            The number of this step, from 1. None: `hyper` has been called for this step (once, for all buffers).
        """
        if count is not None:
            self.hyper(step=count)
        elif not self._hyper.any():
            raise RuntimeError(f"{type(self).__name__}.step: give count=, the number of the step, or call hyper first")
        if set(slots) != set(self.slot_names):
            raise ValueError(f"{self!r} keeps slots {list(self.slot_names)}, got {list(slots)}")
        self._step(grad, self._hyper, segments, param, *(slots[name] for name in self.slot_names))

    @abstractmethod
    def _hyper_values(self, lr: float, step: int) -> tuple[float, ...]:
        """What the hyper array holds for one step."""

    @abstractmethod
    def _step(self, *arrays: np.ndarray) -> None:
        """Call the kernel with (grad, hyper, segments, param, *slots)."""

    # ---- saving ----

    def state(self) -> dict[str, np.ndarray]:
        """Return the settings as float64 arrays by name, fit for `fastnn.save_state`.

        Examples
        --------
        >>> sorted(SGD(0.5, momentum=0.9).state())
        ['lr', 'momentum', 'nesterov', 'weight_decay']
        """
        return {name: np.array(getattr(self, name), np.float64) for name in self.settings}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over settings that `state` returned; nothing changes when one of them is wrong."""
        if set(state) != set(self.settings):
            raise ValueError(
                f"{type(self).__name__}: expected the settings {', '.join(self.settings)}, got {', '.join(state)}"
            )
        loaded = type(self)(**{name: np.asarray(value).tolist() for name, value in state.items()})
        hyper = self._hyper
        self.__dict__.update(loaded.__dict__)
        self._hyper = hyper


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, as torch.optim.SGD without dampening.

    g = grad + weight_decay * param;  velocity = momentum * velocity + g;  param -= lr * velocity, or with Nesterov's
    momentum param -= lr * (g + momentum * velocity).

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float, at least 0 and below 1
    nesterov : bool
        Look ahead along the velocity; needs momentum.
    weight_decay : float
        L2 penalty 0.5 * weight_decay * |param|^2, as it enters the gradient.

    References
    ----------
    Sutskever et al., ICML 2013; CS231n, "Training Neural Networks II".

    Examples
    --------
    >>> sgd = SGD(lr=0.1, momentum=0.9)
    >>> param, slots = np.array([1.0]), sgd.slots(1, np.float64)
    >>> for count in (1, 2):
    ...     sgd.step(param, np.array([1.0]), slots, sgd.segments([1]), count=count)
    >>> param  # 1 - 0.1 * 1 - 0.1 * 1.9
    array([0.71])
    """

    settings = ("lr", "momentum", "nesterov", "weight_decay")

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self._momentum = self._below_1("momentum", momentum)
        self._nesterov = bool(nesterov)
        if self._nesterov and not self._momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0, such as 0.9")
        self.slot_names = ("velocity",) if self._momentum else ()
        self._hyper = np.zeros(4)

    @property
    def momentum(self) -> float:
        """How much of the velocity is kept from one step to the next."""
        return self._momentum

    @property
    def nesterov(self) -> bool:
        """Whether the step looks ahead along the velocity."""
        return self._nesterov

    def _hyper_values(self, lr: float, step: int) -> tuple[float, ...]:
        # The decay stands in the segments, as for Adam, so the factor that the kernel applies to it is 1.
        return lr, self._momentum, float(self._nesterov), 1.0

    def _step(self, *arrays: np.ndarray) -> None:
        F.sgd_step(*arrays)


class Adam(Optimizer):
    """Adam, as torch.optim.Adam: steps by the mean gradient over the root of the mean squared gradient.

    Parameters
    ----------
    lr : float
        Learning rate.
    betas : (float, float), each at least 0 and below 1
        How much is kept of the running means of the gradient and of its square.
    eps : float
        Added to the root.
    weight_decay : float
        L2 penalty as it enters the gradient; `AdamW` keeps decay out of the means.

    References
    ----------
    Kingma and Ba, ICLR 2015; CS231n, "Training Neural Networks II".

    Examples
    --------
    >>> adam = Adam(lr=0.01)
    >>> param, slots = np.array([1.0, 1.0]), adam.slots(2, np.float64)
    >>> adam.step(param, np.array([5.0, -0.001]), slots, adam.segments([2]), count=1)
    >>> param.round(4)
    array([0.99, 1.01])
    """

    slot_names = ("m", "v")
    settings = ("lr", "betas", "eps", "weight_decay")
    _decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise TypeError(f"{type(self).__name__}: betas must be a pair of numbers, got {betas!r}") from None
        self._betas = self._below_1("betas[0]", beta1), self._below_1("betas[1]", beta2)
        self._eps = self._at_least_0("eps", eps)
        self._hyper = np.zeros(6)

    @property
    def betas(self) -> tuple[float, float]:
        """How much is kept of the running means of the gradient and of its square."""
        return self._betas

    @property
    def eps(self) -> float:
        """Added to the root of the mean squared gradient."""
        return self._eps

    def _hyper_values(self, lr: float, step: int) -> tuple[float, ...]:
        return lr, *self._betas, self._eps, float(step), float(self._decoupled)

    def _step(self, *arrays: np.ndarray) -> None:
        F.adam_step(*arrays)


class AdamW(Adam):
    """Adam with decoupled weight decay, as torch.optim.AdamW: parameters shrink by lr * weight_decay before each step.

    Parameters
    ----------
    lr, betas, eps
        As in `Adam`.
    weight_decay : float
        Share by which parameters shrink, times the learning rate.

    References
    ----------
    Loshchilov and Hutter, ICLR 2019.

    Examples
    --------
    >>> adamw = AdamW(lr=0.01, weight_decay=0.1)
    >>> param, slots = np.array([1.0]), adamw.slots(1, np.float64)
    >>> adamw.step(param, np.array([0.0]), slots, adamw.segments([1]), count=1)
    >>> param
    array([0.999])
    """

    _decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)


class AdaGrad(Optimizer):
    """Each parameter's rate falls with the root of the sum of its squared gradients, as in torch.optim.Adagrad.

    sum += g^2;  param -= lr / (1 + (step - 1) lr_decay) * g / (sqrt(sum) + eps). The sum only grows: steps become
    small in the end, wanted or not, which `RMSProp` mends.

    Parameters
    ----------
    lr : float
        Learning rate.
    lr_decay : float
        By how much the learning rate falls with the number of steps.
    eps : float
        Added to the root.
    weight_decay : float
        L2 penalty as it enters the gradient.
    initial_sum : float
        Where the sum begins; above 0 it tames the first steps.

    References
    ----------
    Duchi, Hazan and Singer, JMLR 2011; CS231n, "Training Neural Networks II".

    Examples
    --------
    >>> adagrad = AdaGrad(lr=0.1)
    >>> param, slots = np.array([1.0, 1.0]), adagrad.slots(2, np.float64)
    >>> for count in (1, 2):
    ...     adagrad.step(param, np.array([5.0, -0.001]), slots, adagrad.segments([2]), count=count)
    >>> param.round(4)  # 0.1 + 0.1 / sqrt(2), whatever the gradient
    array([0.8293, 1.1707])
    """

    slot_names = ("sum",)
    settings = ("lr", "lr_decay", "eps", "weight_decay", "initial_sum")

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        initial_sum: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self._lr_decay = self._at_least_0("lr_decay", lr_decay)
        self._eps = self._at_least_0("eps", eps)
        self._initial_sum = self._at_least_0("initial_sum", initial_sum)
        self._hyper = np.zeros(2)

    @property
    def lr_decay(self) -> float:
        """By how much the learning rate falls with the number of steps."""
        return self._lr_decay

    @property
    def eps(self) -> float:
        """Added to the root of the sum."""
        return self._eps

    @property
    def initial_sum(self) -> float:
        """Where the sum of squared gradients begins."""
        return self._initial_sum

    def slots(self, n: int, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
        return {"sum": np.full(n, self._initial_sum, dtype)}

    def _hyper_values(self, lr: float, step: int) -> tuple[float, ...]:
        return lr / (1 + (step - 1) * self._lr_decay), self._eps

    def _step(self, *arrays: np.ndarray) -> None:
        F.adagrad_step(*arrays)


class RMSProp(Optimizer):
    """Steps by the gradient over the root of its running mean square, with momentum, as torch.optim.RMSprop.

    square = alpha square + (1 - alpha) g^2;  d = g / (sqrt(square) + eps);  param -= lr * d, or with momentum
    velocity = momentum velocity + d;  param -= lr * velocity.

    Parameters
    ----------
    lr : float
        Learning rate.
    alpha : float, at least 0 and below 1
        How much is kept of the mean square (CS231n's decay_rate).
    eps : float
        Added to the root.
    momentum : float, at least 0 and below 1
    weight_decay : float
        L2 penalty as it enters the gradient.

    References
    ----------
    Tieleman and Hinton, Coursera "Neural Networks for Machine Learning", lecture 6.5, 2012; CS231n, "Training Neural
    Networks II".

    Examples
    --------
    >>> rmsprop = RMSProp(lr=0.01, alpha=0.75)
    >>> param, slots = np.array([1.0, 1.0]), rmsprop.slots(2, np.float64)
    >>> rmsprop.step(param, np.array([5.0, -0.001]), slots, rmsprop.segments([2]), count=1)
    >>> param.round(4)  # 0.01 / sqrt(1 - 0.75)
    array([0.98, 1.02])
    """

    settings = ("lr", "alpha", "eps", "momentum", "weight_decay")

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self._alpha = self._below_1("alpha", alpha)
        self._eps = self._at_least_0("eps", eps)
        self._momentum = self._below_1("momentum", momentum)
        self.slot_names = ("square", "velocity") if self._momentum else ("square",)
        self._hyper = np.zeros(4)

    @property
    def alpha(self) -> float:
        """How much is kept of the mean square from one step to the next."""
        return self._alpha

    @property
    def eps(self) -> float:
        """Added to the root of the mean square."""
        return self._eps

    @property
    def momentum(self) -> float:
        """How much of the velocity is kept from one step to the next."""
        return self._momentum

    def _hyper_values(self, lr: float, step: int) -> tuple[float, ...]:
        return lr, self._alpha, self._eps, self._momentum

    def _step(self, *arrays: np.ndarray) -> None:
        F.rmsprop_step(*arrays)
