"""The fallback where the extension is missing and Numba is there; loaded only then, or when forced.

Functions take the inputs of their namesakes in reference.py, which say what they compute (where weights have gradients,
`accumulate` too), then the arrays that receive the outputs. What is absent here runs in reference.py. No checks.

Each op has a compiled loop over a range [lo, hi) of independent tasks (elements, planes, channels) that releases the
interpreter lock; `_parallel` hands ranges to threads. No result depends on the cut: any number of threads, same bits.
The threads are Python's: Numba's own end the process after a fork or when two threads call at once. Matrix products are
NumPy's, by its BLAS and that library's threads. Activations are computed in float64 and rounded once. Arrays that are
not C-contiguous are copied on the way, except channels-last ones in element-wise ops.

To add an op: the loop, `_name`, and under it the plain function of reference.py's name and arguments.

Dimensions: see reference.py; planes = n * c images of one channel each, (planes, h, w).
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numba
import numpy as np

from ._backends import ACTIVATIONS
from .reference import Activation, Array, BatchNorm, Size, Table, _out_size

Window: TypeAlias = tuple[Size, Size, Size, Size]  # kernel_size, stride, padding, dilation

_ieee = np.errstate(all="ignore")  # a decorator, for what NumPy does here


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without Python's ZeroDivisionError and with IEEE semantics; on disk where there is a place to keep it."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # Numba finds no writable directory
        return numba.njit(nogil=True, error_model="numpy")(function)


# --- Threads ----------------------------------------------------------------------------------------------------------

_SERIAL_BELOW = 1 << 15  # elements; 30 us of work, about what it costs to wake a thread
_MAX_THREADS = 1024


def _cpu_quota() -> float:
    """The processors' worth of time that the container may use (cgroup version 2, or 1 as containers mount it)."""
    quotas = [math.inf]
    root = Path("/sys/fs/cgroup")
    with suppress(OSError):
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].partition("\n")[0]
        for folder in (root / own, *(root / own).parents):
            with suppress(OSError, ValueError):  # no such file; "max", no limit
                quota, period = map(float, (folder / "cpu.max").read_text().split())
                quotas.append(quota / period)
    with suppress(OSError, ValueError):
        quota, period = (float((root / "cpu" / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period"))
        if quota > 0:  # -1: no limit
            quotas.append(quota / period)
    return min(quotas)


def _choose_threads(environment: Mapping[str, str], affinity: int, quota: float) -> tuple[int, str]:
    """FASTNN_NUM_THREADS if set, else the smallest of affinity, quota and OMP_NUM_THREADS; and why."""
    forced = environment.get("FASTNN_NUM_THREADS")
    if forced:
        if not forced.strip().isdecimal() or not 1 <= int(forced) <= _MAX_THREADS:
            raise ValueError(f"FASTNN_NUM_THREADS must be a whole number from 1 to {_MAX_THREADS}, got {forced!r}")
        return int(forced), f"FASTNN_NUM_THREADS={int(forced)}"
    choices = [(min(affinity, _MAX_THREADS), f"processors that this process may run on: {affinity}")]
    if quota < affinity:
        choices.append((max(1, math.ceil(quota)), f"CPU quota of the container: {quota:.4g}"))
    omp = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": one number per level of nesting
    if omp.isdecimal() and int(omp) > 0:
        choices.append((int(omp), f"OMP_NUM_THREADS={omp}"))
    return min(choices, key=lambda choice: choice[0])


_affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_threads, default_threads_why = _choose_threads(os.environ, _affinity, _cpu_quota())
_pool: ThreadPoolExecutor | None = None


def num_threads() -> int:
    """How many threads compute, the caller among them."""
    return _threads


def set_num_threads(n: int) -> None:
    """Use n threads from now on."""
    global _threads
    _threads = n


def _drop_pool() -> None:
    """A forked child has none of its parent's threads; it starts its own when it needs them."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_pool)


def _parallel(loop: Callable[..., Any], tasks: int, elements: int, *args: Any) -> None:
    """loop(lo, hi, *args) over disjoint ranges that together make [0, tasks)."""
    global _pool
    parts = min(_threads, tasks, 1 + elements // _SERIAL_BELOW)
    if parts <= 1:
        loop(0, tasks, *args)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), "fastnn-numba")
    cuts = [tasks * i // parts for i in range(parts + 1)]
    others = [_pool.submit(loop, lo, hi, *args) for lo, hi in pairwise(cuts[1:])]
    loop(cuts[0], cuts[1], *args)
    for other in others:
        other.result()


# --- Arrays -----------------------------------------------------------------------------------------------------------


def _input(x: Array) -> Array:
    """x C-contiguous and aligned, as a read-only view: so one compiled variant serves writable and read-only input."""
    view = x.view() if x.flags.c_contiguous and x.flags.aligned else x.copy("C")
    view.flags.writeable = False
    return view


@contextmanager
def _output(y: Array) -> Iterator[Array]:
    """y itself if it is C-contiguous and aligned, else an array that is copied into y at the end."""
    if y.flags.carray:
        yield y
    else:
        buffer = np.empty(y.shape, y.dtype)
        yield buffer
        y[...] = buffer


def _in_memory_order(y: Array, *inputs: Array) -> tuple[Array, ...]:
    """The same arrays with axes (n, h, w, c) if y is channels-last: element-wise ops then need no copy."""
    if y.ndim == 4 and not y.flags.c_contiguous and y.transpose(0, 2, 3, 1).flags.c_contiguous:
        return tuple(a.transpose(0, 2, 3, 1) for a in (y, *inputs))
    return (y, *inputs)


def _planes(x: Array) -> Array:
    """(n, c, h, w) -> (n * c, h, w), of a C-contiguous array."""
    n, c, h, w = x.shape
    return x.reshape(n * c, h, w)


# --- exp, the base of all activations ---------------------------------------------------------------------------------

_LOG2_E = 1 / math.log(2)
_LN2_HIGH = float.fromhex("0x1.62e42fefa0000p-1")  # 16 zeros at the end: exact when multiplied by |n| <= 1024
_LN2_LOW = float.fromhex("0x1.cf79abc9e3b39p-40")
_ROUND = 1.5 * 2.0**52  # z + _ROUND has round(z) in its last bits
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (1 / math.factorial(k) for k in range(2, 14))
_EXP_LOW = -708.0  # below the result is no longer a normal number


@_jit
def _exp_parts(x: float) -> tuple[float, float]:
    """p, s with exp(x) = 2 * (s * p + s): x = n ln 2 + r with |r| <= ln(2) / 2, p = exp(r) - 1 (Taylor), s = 2^(n - 1).

    Plain arithmetic and bit patterns only, so that the compiler makes vector instructions of it. x in [-708, 709.9].
    """
    x = min(max(x, _EXP_LOW), 709.9)
    rounded = x * _LOG2_E + _ROUND
    n = rounded - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _C13
    p = p * r + _C12
    p = p * r + _C11
    p = p * r + _C10
    p = p * r + _C9
    p = p * r + _C8
    p = p * r + _C7
    p = p * r + _C6
    p = p * r + _C5
    p = p * r + _C4
    p = p * r + _C3
    p = p * r + _C2
    p = (p * r) * r + r
    bits = np.int64((np.float64(rounded).view(np.int64) + np.int64(1022)) << np.int64(52))
    return p, np.int64(bits).view(np.float64)


@_jit
def _exp(x: float) -> float:
    """exp(x) within 1.5 ulp; below -708 it is 0."""
    p, s = _exp_parts(x)
    y = 2 * (s * p + s) if x >= _EXP_LOW else 0.0
    return y if x == x else x


@_jit
def _expm1(x: float) -> float:
    """exp(x) - 1 within 1.5 ulp."""
    p, s = _exp_parts(x)
    y = 2 * (s * p + (s - 0.5))
    return y if x == x else x


# --- Activations ------------------------------------------------------------------------------------------------------

_RELU, _HARDTANH, _THRESHOLD, _HARDSIGMOID, _HARDSWISH, _LEAKY_RELU, _SOFTSIGN, _SIGMOID, _TANH = range(9)
_ELU, _SELU, _CELU, _GELU, _GELU_TANH, _SILU, _MISH, _SOFTPLUS, _EXP = range(9, 18)
_CODES = {name: code for code, name in enumerate((*ACTIVATIONS, "exp"))}
_SQRT_2 = math.sqrt(2)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = _SELU_SCALE * 1.6732632423543772848170429916717
_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR


@_jit
def _activation(lo: int, hi: int, x: Array, y: Array, code: int, alpha: float, beta: float) -> None:
    """y = f(x), f by its code; one loop each, so that each becomes vector instructions (but gelu: erfc is a call)."""
    x, y = x[lo:hi], y[lo:hi]  # indices from 0 are known not to be negative: else Python's wrap-around forbids vectors
    if code == _RELU:
        for i in range(x.size):
            y[i] = 0 if x[i] <= 0 else x[i]
    elif code == _HARDTANH:
        for i in range(x.size):
            v = alpha if x[i] < alpha else x[i]
            y[i] = beta if v > beta else v
    elif code == _THRESHOLD:
        for i in range(x.size):
            y[i] = beta if x[i] <= alpha else x[i]
    elif code == _HARDSIGMOID:
        for i in range(x.size):
            v = np.float64(x[i]) + 3
            y[i] = (0 if v < 0 else 6 if v > 6 else v) / 6
    elif code == _HARDSWISH:
        for i in range(x.size):
            v = np.float64(x[i]) + 3
            y[i] = x[i] * ((0 if v < 0 else 6 if v > 6 else v) / 6)
    elif code == _LEAKY_RELU:
        for i in range(x.size):
            y[i] = x[i] if x[i] > 0 else alpha * x[i]
    elif code == _SOFTSIGN:
        for i in range(x.size):
            v = np.float64(x[i])
            y[i] = v / (1 + abs(v))
    elif code == _SIGMOID:
        for i in range(x.size):
            y[i] = 1 / (1 + _exp(-np.float64(x[i])))
    elif code == _TANH:
        for i in range(x.size):
            t = _expm1(-2 * abs(np.float64(x[i])))
            t = t / (2 + t)
            y[i] = t if x[i] < 0 else -t if x[i] > 0 else x[i]  # 0 keeps its sign
    elif code == _ELU:
        for i in range(x.size):
            t = alpha * _expm1(np.float64(x[i]))
            y[i] = x[i] if x[i] > 0 else t
    elif code == _SELU:
        for i in range(x.size):
            t = _SELU_ALPHA * _expm1(np.float64(x[i]))
            y[i] = _SELU_SCALE * x[i] if x[i] > 0 else t
    elif code == _CELU:
        for i in range(x.size):
            t = alpha * _expm1(np.float64(x[i]) / alpha)
            y[i] = x[i] if x[i] > 0 else t
    elif code == _GELU:
        for i in range(x.size):
            v = np.float64(x[i])
            y[i] = v * (0.5 * math.erfc(v / -_SQRT_2))
    elif code == _GELU_TANH:
        for i in range(x.size):
            v = np.float64(x[i])
            y[i] = v / (1 + _exp(-v * (_GELU_LINEAR + _GELU_CUBIC * (v * v))))
    elif code == _SILU:
        for i in range(x.size):
            v = np.float64(x[i])
            y[i] = v / (1 + _exp(-v))
    elif code == _MISH:  # tanh(log(1 + e)) = n / (n + 2), n = e (e + 2), is 1 from 40 on
        for i in range(x.size):
            v = np.float64(x[i])
            e = _exp(min(v, 40.0))
            n = e * (e + 2)
            y[i] = v * (n / (n + 2))
    elif code == _SOFTPLUS:
        for i in range(x.size):
            v = alpha * np.float64(x[i])
            t = (max(v, 0.0) + math.log1p(_exp(-abs(v)))) / alpha
            y[i] = x[i] if v > beta else t if v == v else v
    elif code == _EXP:
        for i in range(x.size):
            y[i] = _exp(np.float64(x[i]))


@_jit
def _activation_backward(
    lo: int, hi: int, dy: Array, x: Array, dx: Array, code: int, alpha: float, beta: float
) -> None:
    """dx = dy * f'(x). s(x) * s(-x) is e / (1 + e)^2 with e = exp(-|x|)."""
    dy, x, dx = dy[lo:hi], x[lo:hi], dx[lo:hi]
    if code == _RELU:
        for i in range(x.size):
            dx[i] = dy[i] if x[i] > 0 else 0
    elif code == _HARDTANH:
        for i in range(x.size):
            dx[i] = dy[i] if alpha < x[i] < beta else 0
    elif code == _THRESHOLD:
        for i in range(x.size):
            dx[i] = dy[i] if x[i] > alpha else 0
    elif code == _HARDSIGMOID:
        for i in range(x.size):
            dx[i] = dy[i] / 6 if -3 < x[i] < 3 else 0
    elif code == _HARDSWISH:
        for i in range(x.size):
            t = dy[i] * (np.float64(x[i]) / 3 + 0.5)
            dx[i] = dy[i] if x[i] >= 3 else t if x[i] > -3 else 0
    elif code == _LEAKY_RELU:
        for i in range(x.size):
            dx[i] = dy[i] if x[i] > 0 else alpha * dy[i]
    elif code == _SOFTSIGN:
        for i in range(x.size):
            s = 1 / (1 + abs(np.float64(x[i])))
            dx[i] = dy[i] * (s * s)
    elif code == _SIGMOID:
        for i in range(x.size):
            e = _exp(-abs(np.float64(x[i])))
            dx[i] = dy[i] * (e / ((1 + e) * (1 + e)))
    elif code == _TANH:
        for i in range(x.size):
            e = _exp(-2 * abs(np.float64(x[i])))
            dx[i] = dy[i] * (4 * e / ((1 + e) * (1 + e)))
    elif code == _ELU:
        for i in range(x.size):
            t = dy[i] * (alpha * _exp(np.float64(x[i])))
            dx[i] = dy[i] if x[i] > 0 else t
    elif code == _SELU:
        for i in range(x.size):
            t = dy[i] * (_SELU_ALPHA * _exp(np.float64(x[i])))
            dx[i] = _SELU_SCALE * dy[i] if x[i] > 0 else t
    elif code == _CELU:
        for i in range(x.size):
            t = dy[i] * _exp(np.float64(x[i]) / alpha)
            dx[i] = dy[i] if x[i] > 0 else t
    elif code == _GELU:
        for i in range(x.size):
            v = np.float64(x[i])
            dx[i] = dy[i] * (0.5 * math.erfc(v / -_SQRT_2) + v * (_DENSITY * _exp(-0.5 * v * v)))
    elif code == _GELU_TANH:
        for i in range(x.size):
            v = np.float64(x[i])
            u = v * (_GELU_LINEAR + _GELU_CUBIC * (v * v))
            slope = _GELU_LINEAR + 3 * _GELU_CUBIC * (v * v)
            e = _exp(-abs(u))
            s = (1 if u > 0 else e) / (1 + e)
            dx[i] = dy[i] * (s + v * (e / ((1 + e) * (1 + e))) * slope)
    elif code == _SILU:
        for i in range(x.size):
            v = np.float64(x[i])
            e = _exp(-abs(v))
            s = (1 if v > 0 else e) / (1 + e)
            dx[i] = dy[i] * (s + v * (e / ((1 + e) * (1 + e))))
    elif code == _MISH:  # (n (n + 2) + 4 v e (1 + e)) / (n + 2)^2 with e = exp(-|v|), for v > 0 times e^4
        for i in range(x.size):
            v = np.float64(x[i])
            e = _exp(-abs(v))
            q = 1 + e
            d = q * q + (e * e if v > 0 else 1)
            t = 4 * v * (e * e if v > 0 else e) * (q / d)
            dx[i] = dy[i] * (((q + e if v > 0 else e * (e + 2)) + t) / d)
    elif code == _SOFTPLUS:
        for i in range(x.size):
            v = alpha * np.float64(x[i])
            t = dy[i] / (1 + _exp(-v))
            dx[i] = dy[i] if v > beta else t


def _run_activation(code: int, x: Array, parameters: tuple[float, ...], y: Array) -> None:
    y, x = _in_memory_order(y, x)
    with _output(y) as out:
        flat = _input(x).reshape(x.size)
        _parallel(_activation, x.size, x.size, flat, out.reshape(x.size), code, *_two(parameters, x.dtype))


def _run_activation_backward(code: int, dy: Array, x: Array, parameters: tuple[float, ...], dx: Array) -> None:
    dx, dy, x = _in_memory_order(dx, dy, x)
    with _output(dx) as out:
        flat_dy, flat_x, flat_dx = _input(dy).reshape(x.size), _input(x).reshape(x.size), out.reshape(x.size)
        _parallel(_activation_backward, x.size, x.size, flat_dy, flat_x, flat_dx, code, *_two(parameters, x.dtype))


def _two(parameters: tuple[float, ...], dtype: np.dtype[Any]) -> tuple[float, float]:
    """alpha and beta, rounded to the dtype; 0 for those that the activation does not have."""
    alpha, beta = (*parameters, 0.0, 0.0)[:2]
    return float(dtype.type(alpha)), float(dtype.type(beta))


def _bind(code: int, parameters: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The forward and the backward function of an activation with so many parameters, as in reference.py."""
    if parameters == 0:
        return (
            lambda x, y: _run_activation(code, x, (), y),
            lambda dy, x, dx: _run_activation_backward(code, dy, x, (), dx),
        )
    if parameters == 1:
        return (
            lambda x, alpha, y: _run_activation(code, x, (alpha,), y),
            lambda dy, x, alpha, dx: _run_activation_backward(code, dy, x, (alpha,), dx),
        )
    return (
        lambda x, alpha, beta, y: _run_activation(code, x, (alpha, beta), y),
        lambda dy, x, alpha, beta, dx: _run_activation_backward(code, dy, x, (alpha, beta), dx),
    )


for _name, _defaults in ACTIVATIONS.items():
    globals()[f"{_name}_forward"], globals()[f"{_name}_backward"] = _bind(_CODES[_name], len(_defaults))


def exp_forward(x: Array, y: Array) -> None:
    _run_activation(_EXP, x, (), y)


@_jit
def _prelu(lo: int, hi: int, x: Array, weight: Array, y: Array) -> None:
    for plane in range(lo, hi):
        w = weight[plane % weight.size]
        for i in range(x.shape[1]):
            y[plane, i] = x[plane, i] if x[plane, i] > 0 else w * x[plane, i]


@_jit
def _prelu_backward(lo: int, hi: int, dy: Array, x: Array, weight: Array, dx: Array, sums: Array) -> None:
    """The sum of each plane's part of dweight goes to sums (planes,)."""
    for plane in range(lo, hi):
        w = weight[plane % weight.size]
        total = 0.0
        for i in range(x.shape[1]):
            dx[plane, i] = dy[plane, i] if x[plane, i] > 0 else w * dy[plane, i]
            total += 0.0 if x[plane, i] > 0 else np.float64(dy[plane, i] * x[plane, i])
        sums[plane] = total


def prelu_forward(x: Array, weight: Array, y: Array) -> None:
    n, c, s = x.shape
    with _output(y) as out:
        planes = _input(x).reshape(n * c, s)
        _parallel(_prelu, n * c, x.size, planes, _input(weight), out.reshape(n * c, s))


def prelu_backward(dy: Array, x: Array, weight: Array, accumulate: bool, dx: Array, dweight: Array) -> None:
    n, c, s = x.shape
    sums = np.empty(n * c)
    with _output(dx) as out:
        planes = (_input(a).reshape(n * c, s) for a in (dy, x))
        _parallel(_prelu_backward, n * c, x.size, *planes, _input(weight), out.reshape(n * c, s), sums)
    total = sums.reshape(n, c).sum(0)
    dweight[...] = total + dweight if accumulate else total


# --- Dropout ----------------------------------------------------------------------------------------------------------

_CHUNK = 512  # elements of one task: whole mask bytes, whole Philox blocks, and their draws lie in L1
_U32 = np.uint64(32)
_U16 = np.uint64(16)
_LOW32 = np.uint64(0xFFFFFFFF)
_LOW16 = np.uint64(0xFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@_jit
def _draw(first_block: int, blocks: int, key: Array, halves: bool, draws: Array) -> None:
    """The words (with `halves`, the 16-bit halves) of consecutive Philox4x32-10 blocks; see reference.philox4x32."""
    for j in range(blocks):
        block = np.uint64(first_block + j)
        c0, c1, c2, c3 = block & _LOW32, block >> _U32, key[1] & _LOW32, key[1] >> _U32
        k0, k1 = key[0] & _LOW32, key[0] >> _U32
        for _ in range(10):
            a, b = c0 * _M0, c2 * _M1
            c0, c1, c2, c3 = (b >> _U32) ^ c1 ^ k0, b & _LOW32, (a >> _U32) ^ c3 ^ k1, a & _LOW32
            k0, k1 = (k0 + _W0) & _LOW32, (k1 + _W1) & _LOW32
        if halves:
            draws[8 * j + 0], draws[8 * j + 1] = c0 & _LOW16, c0 >> _U16
            draws[8 * j + 2], draws[8 * j + 3] = c1 & _LOW16, c1 >> _U16
            draws[8 * j + 4], draws[8 * j + 5] = c2 & _LOW16, c2 >> _U16
            draws[8 * j + 6], draws[8 * j + 7] = c3 & _LOW16, c3 >> _U16
        else:
            draws[4 * j + 0], draws[4 * j + 1], draws[4 * j + 2], draws[4 * j + 3] = c0, c1, c2, c3


@_jit
def _random_bits(lo: int, hi: int, key: Array, out: Array) -> None:
    draws = np.empty(_CHUNK, np.uint32)
    for task in range(lo, hi):
        begin = task * _CHUNK
        size = min(_CHUNK, out.size - begin)
        _draw(begin // 4, (size + 3) // 4, key, False, draws)
        for i in range(size):
            out[begin + i] = draws[i]


@_jit
def _dropout(
    lo: int, hi: int, x: Array, key: Array, halves: bool, threshold: int, scale: float, y: Array, mask: Array
) -> None:
    draws = np.empty(_CHUNK, np.uint32)
    for task in range(lo, hi):
        begin = task * _CHUNK
        x_part, y_part = x[begin : begin + _CHUNK], y[begin : begin + _CHUNK]
        per_block = 8 if halves else 4
        _draw(begin // per_block, (x_part.size + per_block - 1) // per_block, key, halves, draws)
        for i in range(x_part.size):
            y_part[i] = x_part[i] * scale if draws[i] >= threshold else 0
        for i in range((x_part.size + 7) // 8):
            byte = 0
            for bit in range(8):
                byte |= (draws[8 * i + bit] >= threshold and 8 * i + bit < x_part.size) << bit
            mask[begin // 8 + i] = byte


@_jit
def _dropout_backward(lo: int, hi: int, dy: Array, mask: Array, scale: float, dx: Array) -> None:
    keep = np.empty(_CHUNK, np.uint32)
    for task in range(lo, hi):
        begin = task * _CHUNK
        dy_part, dx_part, bits = dy[begin : begin + _CHUNK], dx[begin : begin + _CHUNK], mask[begin // 8 :]
        for i in range((dy_part.size + 7) // 8):
            for bit in range(8):
                keep[8 * i + bit] = (bits[i] >> bit) & 1
        for i in range(dy_part.size):
            dx_part[i] = dy_part[i] * scale if keep[i] else 0


def _chunks(size: int) -> int:
    return (size + _CHUNK - 1) // _CHUNK


def _scale(x: Array, p: float) -> Any:
    return x.dtype.type(1 / (1 - p) if p < 1 else 0)


def random_bits(key: Array, size: int, out: Array) -> None:
    with _output(out) as words:
        _parallel(_random_bits, _chunks(size), size, _input(key), words)


def dropout_forward(x: Array, key: Array, p: float, y: Array, mask: Array) -> None:
    halves = float(p * 2**16).is_integer()
    threshold = int(p * 2**16) if halves else min(round(p * 2**32), 2**32 - 1)
    with _output(y) as out, _output(mask) as bits:
        args = (_input(x).reshape(x.size), _input(key), halves, threshold, _scale(x, p), out.reshape(x.size), bits)
        _parallel(_dropout, _chunks(x.size), x.size, *args)


def dropout_backward(dy: Array, mask: Array, p: float, dx: Array) -> None:
    with _output(dx) as out:
        args = (_input(dy).reshape(dy.size), _input(mask), _scale(dy, p), out.reshape(dy.size))
        _parallel(_dropout_backward, _chunks(dy.size), dy.size, *args)


# --- Sums over a channel, in float64 ----------------------------------------------------------------------------------


@_jit
def _sum(row: Array) -> float:
    """Eight chains of additions, always the same: one chain would wait 4 cycles for each element."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = row.size - row.size % 8
    for i in range(0, whole, 8):
        s0 += row[i]
        s1 += row[i + 1]
        s2 += row[i + 2]
        s3 += row[i + 3]
        s4 += row[i + 4]
        s5 += row[i + 5]
        s6 += row[i + 6]
        s7 += row[i + 7]
    for i in range(whole, row.size):
        s0 += row[i]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@_jit
def _channel_sum(lo: int, hi: int, x: Array, out: Array) -> None:
    """x (n, c, size) -> out (c,)."""
    for c in range(lo, hi):
        total = 0.0
        for n in range(x.shape[0]):
            total += _sum(x[n, c])
        out[c] = total


@_jit
def _channel_moments(lo: int, hi: int, x: Array, mean: Array, var: Array) -> None:
    """x (n, c, size) -> mean and biased variance (c,), in two passes."""
    count = x.shape[0] * x.shape[2]
    squares = np.empty(x.shape[2])
    for c in range(lo, hi):
        total = 0.0
        for n in range(x.shape[0]):
            total += _sum(x[n, c])
        centre = total / count
        total = 0.0
        for n in range(x.shape[0]):
            for i in range(x.shape[2]):
                squares[i] = (x[n, c, i] - centre) * (x[n, c, i] - centre)
            total += _sum(squares)
        mean[c] = centre
        var[c] = total / count


@_jit
def _channel_gradients(
    lo: int, hi: int, dy: Array, x: Array, mean: Array, inverse: Array, dweight: Array, dbias: Array
) -> None:
    """dbias = sum(dy), dweight = sum(dy * (x - mean) * inverse) of x, dy (n, c, size)."""
    products = np.empty(x.shape[2])
    for c in range(lo, hi):
        dw = db = 0.0
        for n in range(x.shape[0]):
            for i in range(x.shape[2]):
                products[i] = dy[n, c, i] * ((x[n, c, i] - mean[c]) * inverse[c])
            dw += _sum(products)
            db += _sum(dy[n, c])
        dweight[c] = dw
        dbias[c] = db


# --- Batch normalisation ----------------------------------------------------------------------------------------------


@_jit
def _affine(
    lo: int, hi: int, x: Array, bias: Array, mean: Array, scale: Array, shift: Array, residual: Array, add: bool,
    code: int, alpha: float, beta: float, y: Array,
) -> None:  # fmt: skip
    """y = activation(((x + bias) - mean) * scale + shift + residual), x and y (planes, size); `add`: with residual."""
    for plane in range(lo, hi):
        c = plane % bias.size
        for i in range(x.shape[1]):
            y[plane, i] = ((x[plane, i] + bias[c]) - mean[c]) * scale[c] + shift[c]
        if add:
            for i in range(x.shape[1]):
                y[plane, i] += residual[plane, i]
        _activation(0, x.shape[1], y[plane], y[plane], code, alpha, beta)


def _run_affine(
    x: Array,
    bias: Array | None,
    batch_norm: BatchNorm | None,
    residual: Array | None,
    activation: Activation,
    y: Array,
) -> None:
    """_affine of (n, c, h, w) arrays; y is C-contiguous and may be x. What is None leaves the values as they are."""
    n, c, h, w = x.shape
    zeros, ones = np.zeros(c, x.dtype), np.ones(c, x.dtype)
    gamma, beta, mean, var, eps = batch_norm or (None, None, zeros, ones, 0.0)
    scale = (1 if gamma is None else gamma) / np.sqrt(var + eps)
    vectors = [zeros if bias is None else bias, mean, scale, zeros if beta is None else beta]
    shape = (n * c, h * w)
    code, parameters = (-1, ()) if activation is None else (_CODES[activation[0]], activation[1:])
    _parallel(
        _affine, n * c, 2 * x.size, _input(x).reshape(shape), *(_input(v.astype(x.dtype)) for v in vectors),
        _input(x if residual is None else residual).reshape(shape), residual is not None,
        code, *_two(parameters, x.dtype), y.reshape(shape),
    )  # fmt: skip


@_ieee
def batch_norm_forward(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    activation: Activation,
    y: Array,
) -> None:
    with _output(y) as out:
        _run_affine(x, None, (weight, bias, mean, var, eps), None, activation, out)


@_ieee
def batch_norm_train_forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    residual: Array | None,
    relu: bool,
    y: Array,
    mean: Array,
    var: Array,
) -> None:
    n, c, h, w = x.shape
    x = _input(x)
    mean64, var64 = np.empty(c), np.empty(c)
    _parallel(_channel_moments, c, 4 * x.size, x.reshape(n, c, h * w), mean64, var64)
    mean[...], var[...] = mean64, var64
    batch_norm_forward(x, mean64, var64, weight, bias, eps, None, y)  # rounded, var may be infinite
    if residual is not None:
        np.add(y, residual, out=y)
    if relu:
        np.maximum(y, 0, out=y)


@_jit
def _batch_norm_backward(
    lo: int, hi: int, dy: Array, x: Array, mean: Array, inverse: Array, dw: Array, db: Array, scale: Array, dx: Array
) -> None:
    """dx = (dy - db - xhat * dw) * scale, plane by plane; dw and db are means here, zeros with frozen statistics."""
    for plane in range(lo, hi):
        c = plane % mean.size
        for i in range(x.shape[1]):
            xhat = (x[plane, i] - mean[c]) * inverse[c]
            dx[plane, i] = (dy[plane, i] - db[c] - xhat * dw[c]) * scale[c]


@_jit
def _scale_planes(lo: int, hi: int, dy: Array, scale: Array, dx: Array) -> None:
    for plane in range(lo, hi):
        for i in range(dy.shape[1]):
            dx[plane, i] = dy[plane, i] * scale[plane % scale.size]


@_ieee
def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    eps: float,
    frozen: bool,
    y: Array | None,
    accumulate: bool,
    dx: Array,
    dweight: Array,
    dbias: Array,
) -> None:
    n, c, h, w = x.shape
    if y is not None:
        dy = np.where(y > 0, dy, dy.dtype.type(0))
    dy, x = _input(dy), _input(x)
    inverse = _input((1 / np.sqrt(var + eps)).astype(x.dtype))
    mean = _input(mean.astype(x.dtype))
    scale = inverse if weight is None else _input((weight * inverse).astype(x.dtype))
    dw, db = np.empty(c), np.empty(c)
    rows, planes = (n, c, h * w), (n * c, h * w)
    _parallel(_channel_gradients, c, 4 * x.size, dy.reshape(rows), x.reshape(rows), mean, inverse, dw, db)
    with _output(dx) as out:
        if frozen:
            _parallel(_scale_planes, n * c, x.size, dy.reshape(planes), scale, out.reshape(planes))
        else:
            means = ((d / np.float64(n * h * w)).astype(x.dtype) for d in (dw, db))
            args = (dy.reshape(planes), x.reshape(planes), mean, inverse, *means, scale, out.reshape(planes))
            _parallel(_batch_norm_backward, n * c, 2 * x.size, *args)
    _put(dw, accumulate, dweight)
    _put(db, accumulate, dbias)


def _put(gradient: Array, accumulate: bool, out: Array) -> None:
    """out = gradient, or out + gradient."""
    out[...] = gradient.astype(out.dtype) + out if accumulate else gradient


# --- Group normalisation ----------------------------------------------------------------------------------------------


@_jit
def _group_norm(
    lo: int, hi: int, x: Array, weight: Array, bias: Array, eps: float, y: Array, statistics: Array
) -> None:
    """x and y (n * groups, channels of a group, pixels), weight and bias (groups, channels of a group)."""
    channels, pixels = x.shape[1:]
    m = channels * pixels
    for i in range(lo, hi):
        mean = _sum(x[i].reshape(m)) / m
        total = 0.0
        for c in range(channels):
            for p in range(pixels):
                total += (x[i, c, p] - mean) ** 2
        statistics[i, 0], statistics[i, 1] = mean, total / m
        inverse, g = 1 / np.sqrt(total / m + eps), i % weight.shape[0]
        for c in range(channels):
            for p in range(pixels):
                y[i, c, p] = (x[i, c, p] - mean) * inverse * weight[g, c] + bias[g, c]


@_jit
def _group_norm_backward(
    lo: int, hi: int, dy: Array, x: Array, statistics: Array, weight: Array, eps: float, dx: Array, shares: Array
) -> None:
    """shares (n * groups, channels, 2): sum(dy) and sum(dy * xhat) of each channel of each group."""
    channels, pixels = x.shape[1:]
    m = channels * pixels
    for i in range(lo, hi):
        mean, inverse, g = statistics[i, 0], 1 / np.sqrt(statistics[i, 1] + eps), i % weight.shape[0]
        mean_g = mean_gx = 0.0
        for c in range(channels):
            db = dw = 0.0
            for p in range(pixels):
                db += dy[i, c, p]
                dw += dy[i, c, p] * ((x[i, c, p] - mean) * inverse)
            shares[i, c, 0], shares[i, c, 1] = db, dw
            mean_g += db * weight[g, c] / m
            mean_gx += dw * weight[g, c] / m
        for c in range(channels):
            for p in range(pixels):
                xhat = (x[i, c, p] - mean) * inverse
                dx[i, c, p] = (dy[i, c, p] * weight[g, c] - mean_g - xhat * mean_gx) * inverse


def _group_vector(v: Array | None, otherwise: float, x: Array, groups: int) -> Array:
    """(c,) -> (groups, c / groups), read-only; None: all `otherwise`."""
    c = x.shape[1]
    return _input(np.full(c, otherwise, x.dtype) if v is None else v).reshape(groups, c // groups)


@_ieee
def group_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float, y: Array, statistics: Array
) -> None:
    n, c, h, w = x.shape
    rows = (n * groups, c // groups, h * w)
    vectors = _group_vector(weight, 1.0, x, groups), _group_vector(bias, 0.0, x, groups)
    with _output(y) as out:
        args = (_input(x).reshape(rows), *vectors, eps, out.reshape(rows), statistics.reshape(n * groups, 2))
        _parallel(_group_norm, n * groups, 4 * x.size, *args)


@_ieee
def group_norm_backward(
    dy: Array,
    x: Array,
    statistics: Array,
    weight: Array | None,
    groups: int,
    eps: float,
    accumulate: bool,
    dx: Array,
    dweight: Array | None,
    dbias: Array | None,
) -> None:
    n, c, h, w = x.shape
    rows, shares = (n * groups, c // groups, h * w), np.empty((n * groups, c // groups, 2))
    with _output(dx) as out:
        _parallel(
            _group_norm_backward, n * groups, 6 * x.size, _input(dy).reshape(rows), _input(x).reshape(rows),
            _input(statistics).reshape(n * groups, 2), _group_vector(weight, 1.0, x, groups), eps, out.reshape(rows),
            shares,
        )  # fmt: skip
    db, dw = shares.reshape(n, c, 2).sum(0).T
    for gradient, target in ((dw, dweight), (db, dbias)):
        if target is not None:
            _put(gradient, accumulate, target)


# --- Pooling ----------------------------------------------------------------------------------------------------------


@_jit
def _inside(offset: int, stride: int, size: int, out: int) -> tuple[int, int]:
    """Begin and end of the windows in [0, out) whose position i * stride + offset lies in [0, size)."""
    begin = max(0, -(offset // stride))
    return min(begin, out), max(min(out, (size - 1 - offset) // stride + 1), min(begin, out))


@_jit
def _max_pool2d(lo: int, hi: int, x: Array, window: Window, y: Array, argmax: Array) -> None:
    """x (planes, h, w), y and argmax (planes, oh, ow). Tap by tap over a row of windows, without a branch inside."""
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = window
    h, w = x.shape[1:]
    ow = y.shape[2]
    best, position = np.empty(ow, x.dtype), np.empty(ow, np.int32)
    for plane in range(lo, hi):
        for oh in range(y.shape[1]):
            best[:] = -np.inf
            position[:] = -1
            for kh in range(kernel_h):
                ih = oh * stride_h - pad_h + kh * dilation_h
                if ih < 0 or ih >= h:
                    continue
                for kw in range(kernel_w):
                    offset = kw * dilation_w - pad_w
                    begin, end = _inside(offset, stride_w, w, ow)
                    line = x[plane, ih, begin * stride_w + offset :: stride_w]
                    some, where, tap = best[begin:end], position[begin:end], np.int32(kh * kernel_w + kw)
                    for i in range(some.size):
                        v, b, p = line[i], some[i], where[i]
                        wins = (v > b) | (p < 0) | ((v != v) & (b == b))
                        some[i] = v if wins else b
                        where[i] = tap if wins else p
            for i in range(ow):
                y[plane, oh, i] = best[i]
                argmax[plane, oh, i] = max(position[i], 0)


@_jit
def _max_pool2d_backward(lo: int, hi: int, dy: Array, argmax: Array, window: Window, dx: Array) -> None:
    """Windows from last to first: each dx then adds its dy in the order of the taps, and so the reference's bits."""
    (_, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = window
    h, w = dx.shape[1:]
    for plane in range(lo, hi):
        dx[plane] = 0
        for oh in range(dy.shape[1] - 1, -1, -1):
            for ow in range(dy.shape[2] - 1, -1, -1):
                kh, kw = divmod(np.int64(argmax[plane, oh, ow]), kernel_w)
                ih = oh * stride_h - pad_h + kh * dilation_h
                iw = ow * stride_w - pad_w + kw * dilation_w
                if 0 <= ih < h and 0 <= iw < w:
                    dx[plane, ih, iw] += dy[plane, oh, ow]


@_jit
def _span(out: int, size: int, taps: int, stride: int, padding: int, include_pad: bool) -> tuple[int, int, int]:
    """Begin and end of an average window inside x, and the length that counts; see reference._divisor."""
    begin = out * stride - padding
    end = min(begin + taps, size + padding)
    length = end - begin
    begin, end = max(begin, 0), min(end, size)
    return begin, end, length if include_pad else end - begin


@_jit
def _avg_pool2d(lo: int, hi: int, x: Array, window: Window, include_pad: bool, divisor: int, y: Array) -> None:
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), _ = window
    h, w = x.shape[1:]
    for plane in range(lo, hi):
        for oh in range(y.shape[1]):
            top, bottom, rows = _span(oh, h, kernel_h, stride_h, pad_h, include_pad)
            for ow in range(y.shape[2]):
                left, right, cols = _span(ow, w, kernel_w, stride_w, pad_w, include_pad)
                total = 0.0
                for ih in range(top, bottom):
                    for iw in range(left, right):
                        total += x[plane, ih, iw]
                y[plane, oh, ow] = total / (divisor or max(max(rows, 0) * max(cols, 0), 1))


@_jit
def _avg_pool2d_backward(
    lo: int, hi: int, dy: Array, window: Window, include_pad: bool, divisor: int, dx: Array
) -> None:
    (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), _ = window
    h, w = dx.shape[1:]
    for plane in range(lo, hi):
        dx[plane] = 0
        for oh in range(dy.shape[1]):
            top, bottom, rows = _span(oh, h, kernel_h, stride_h, pad_h, include_pad)
            for ow in range(dy.shape[2]):
                left, right, cols = _span(ow, w, kernel_w, stride_w, pad_w, include_pad)
                share = dy[plane, oh, ow] / (divisor or max(max(rows, 0) * max(cols, 0), 1))
                for ih in range(top, bottom):
                    for iw in range(left, right):
                        dx[plane, ih, iw] += share


@_jit
def _part(i: int, size: int, out: int) -> tuple[int, int]:
    """Begin and end of part i of `out` parts."""
    return i * size // out, -(-(i + 1) * size // out)


@_jit
def _adaptive_max_pool2d(lo: int, hi: int, x: Array, y: Array, argmax: Array) -> None:
    h, w = x.shape[1:]
    for plane in range(lo, hi):
        for oh in range(y.shape[1]):
            top, bottom = _part(oh, h, y.shape[1])
            for ow in range(y.shape[2]):
                left, right = _part(ow, w, y.shape[2])
                best, position = x[plane, top, left], top * w + left
                for ih in range(top, bottom):
                    for iw in range(left, right):
                        v = x[plane, ih, iw]
                        if v > best or (v != v and best == best):
                            best, position = v, ih * w + iw
                y[plane, oh, ow], argmax[plane, oh, ow] = best, position


@_jit
def _adaptive_max_pool2d_backward(lo: int, hi: int, dy: Array, argmax: Array, dx: Array) -> None:
    """dy and argmax (planes, outputs), dx (planes, h * w)."""
    for plane in range(lo, hi):
        dx[plane] = 0
        for i in range(dy.shape[1]):
            dx[plane, argmax[plane, i]] += dy[plane, i]


@_jit
def _adaptive_avg_pool2d(lo: int, hi: int, x: Array, y: Array) -> None:
    for plane in range(lo, hi):
        for oh in range(y.shape[1]):
            top, bottom = _part(oh, x.shape[1], y.shape[1])
            for ow in range(y.shape[2]):
                left, right = _part(ow, x.shape[2], y.shape[2])
                total = 0.0
                for ih in range(top, bottom):
                    for iw in range(left, right):
                        total += x[plane, ih, iw]
                y[plane, oh, ow] = total / ((bottom - top) * (right - left))


@_jit
def _adaptive_avg_pool2d_backward(lo: int, hi: int, dy: Array, dx: Array) -> None:
    for plane in range(lo, hi):
        dx[plane] = 0
        for oh in range(dy.shape[1]):
            top, bottom = _part(oh, dx.shape[1], dy.shape[1])
            for ow in range(dy.shape[2]):
                left, right = _part(ow, dx.shape[2], dy.shape[2])
                share = dy[plane, oh, ow] / ((bottom - top) * (right - left))
                for ih in range(top, bottom):
                    for iw in range(left, right):
                        dx[plane, ih, iw] += share


@_jit
def _mean_planes(lo: int, hi: int, x: Array, y: Array) -> None:
    for plane in range(lo, hi):
        y[plane] = _sum(x[plane]) / x.shape[1]


@_jit
def _spread_planes(lo: int, hi: int, dy: Array, dx: Array) -> None:
    for plane in range(lo, hi):
        dx[plane] = dy[plane] / dx.shape[1]


def max_pool2d_forward(
    x: Array,
    kernel_size: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    out_size: Size,
    y: Array,
    argmax: Array | None,
) -> None:
    """argmax may be None: not wanted."""
    if argmax is None:
        argmax = np.empty(y.shape, np.uint8 if math.prod(kernel_size) <= 255 else np.int32)
    with _output(y) as out, _output(argmax) as positions:
        window = (kernel_size, stride, padding, dilation)
        args = (_planes(_input(x)), window, _planes(out), _planes(positions))
        _parallel(_max_pool2d, x.shape[0] * x.shape[1], y.size * math.prod(kernel_size), *args)


def max_pool2d_backward(
    dy: Array,
    argmax: Array,
    kernel_size: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    in_size: Size,
    dx: Array,
) -> None:
    with _output(dx) as out:
        window = (kernel_size, stride, padding, dilation)
        args = (_planes(_input(dy)), _planes(_input(argmax)), window, _planes(out))
        _parallel(_max_pool2d_backward, dx.shape[0] * dx.shape[1], dx.size + 4 * dy.size, *args)


def avg_pool2d_forward(
    x: Array,
    kernel_size: Size,
    stride: Size,
    padding: Size,
    out_size: Size,
    count_include_pad: bool,
    divisor: int,
    y: Array,
) -> None:
    with _output(y) as out:
        window = (kernel_size, stride, padding, (1, 1))
        args = (_planes(_input(x)), window, count_include_pad, divisor, _planes(out))
        _parallel(_avg_pool2d, x.shape[0] * x.shape[1], y.size * math.prod(kernel_size), *args)


def avg_pool2d_backward(
    dy: Array,
    kernel_size: Size,
    stride: Size,
    padding: Size,
    count_include_pad: bool,
    divisor: int,
    in_size: Size,
    dx: Array,
) -> None:
    with _output(dx) as out:
        window = (kernel_size, stride, padding, (1, 1))
        args = (_planes(_input(dy)), window, count_include_pad, divisor, _planes(out))
        _parallel(_avg_pool2d_backward, dx.shape[0] * dx.shape[1], dy.size * math.prod(kernel_size), *args)


def adaptive_max_pool2d_forward(x: Array, out_size: Size, y: Array, argmax: Array | None) -> None:
    """argmax may be None: not wanted."""
    with _output(y) as out, _output(np.empty(y.shape, np.int64) if argmax is None else argmax) as positions:
        args = (_planes(_input(x)), _planes(out), _planes(positions))
        _parallel(_adaptive_max_pool2d, x.shape[0] * x.shape[1], x.size, *args)


def adaptive_max_pool2d_backward(dy: Array, argmax: Array, in_size: Size, dx: Array) -> None:
    planes = dx.shape[0] * dx.shape[1]
    with _output(dx) as out:
        args = (_input(dy).reshape(planes, -1), _input(argmax).reshape(planes, -1), out.reshape(planes, -1))
        _parallel(_adaptive_max_pool2d_backward, planes, dx.size + 4 * dy.size, *args)


def adaptive_avg_pool2d_forward(x: Array, out_size: Size, y: Array) -> None:
    with _output(y) as out:
        args = (_planes(_input(x)), _planes(out))
        _parallel(_adaptive_avg_pool2d, x.shape[0] * x.shape[1], x.size, *args)


def adaptive_avg_pool2d_backward(dy: Array, in_size: Size, dx: Array) -> None:
    with _output(dx) as out:
        args = (_planes(_input(dy)), _planes(out))
        _parallel(_adaptive_avg_pool2d_backward, dx.shape[0] * dx.shape[1], 2 * dx.size, *args)


def global_avg_pool2d_forward(x: Array, y: Array) -> None:
    n, c, h, w = x.shape
    with _output(y) as out:
        _parallel(_mean_planes, n * c, x.size, _input(x).reshape(n * c, h * w), out.reshape(n * c))


def global_avg_pool2d_backward(dy: Array, in_size: Size, dx: Array) -> None:
    n, c, h, w = dx.shape
    with _output(dx) as out:
        _parallel(_spread_planes, n * c, dx.size, _input(dy).reshape(n * c), out.reshape(n * c, h * w))


# --- im2col and convolution -------------------------------------------------------------------------------------------

_BLOCK = 1 << 19  # elements of the im2col matrix made at a time, 2 MB of float32: with less, BLAS waits more


@_jit
def _im2col(lo: int, hi: int, x: Array, first: int, window: Window, cols: Array) -> None:
    """x (planes, h, w) -> cols (planes, kh * kw, rows, ow), which begin at output row `first`."""
    (_, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = window
    h, w = x.shape[1:]
    rows, ow = cols.shape[2:]
    for plane in range(lo, hi):
        for tap in range(cols.shape[1]):
            kh, kw = divmod(tap, kernel_w)
            offset = kw * dilation_w - pad_w
            begin, end = _inside(offset, stride_w, w, ow)
            for row in range(rows):
                ih = (first + row) * stride_h - pad_h + kh * dilation_h
                to = cols[plane, tap, row]
                if ih < 0 or ih >= h:
                    to[:] = 0
                    continue
                for i in range(begin):
                    to[i] = 0
                for i in range(end, ow):
                    to[i] = 0
                inner, start = to[begin:end], begin * stride_w + offset
                if stride_w == 1:
                    line = x[plane, ih, start:]
                    for i in range(inner.size):
                        inner[i] = line[i]
                else:
                    for i in range(inner.size):
                        inner[i] = x[plane, ih, start + i * stride_w]


@_jit
def _col2im(lo: int, hi: int, cols: Array, first: int, window: Window, x: Array) -> None:
    """The transpose of _im2col: adds cols to x, tap by tap."""
    (_, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = window
    h, w = x.shape[1:]
    rows, ow = cols.shape[2:]
    for plane in range(lo, hi):
        for tap in range(cols.shape[1]):
            kh, kw = divmod(tap, kernel_w)
            offset = kw * dilation_w - pad_w
            begin, end = _inside(offset, stride_w, w, ow)
            for row in range(rows):
                ih = (first + row) * stride_h - pad_h + kh * dilation_h
                if 0 <= ih < h:
                    for i in range(begin, end):
                        x[plane, ih, i * stride_w + offset] += cols[plane, tap, row, i]


def im2col_forward(x: Array, kernel_size: Size, stride: Size, padding: Size, dilation: Size, y: Array) -> None:
    n, c = x.shape[:2]
    window = (kernel_size, stride, padding, dilation)
    with _output(y) as out:
        cols = out.reshape(n * c, math.prod(kernel_size), *_out_size(x.shape[2:], *window))
        _parallel(_im2col, n * c, y.size, _planes(_input(x)), 0, window, cols)


def col2im_forward(
    cols: Array, out_size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size, x: Array
) -> None:
    n, c = x.shape[:2]
    window = (kernel_size, stride, padding, dilation)
    with _output(x) as out:
        out[...] = 0
        windows = _input(cols).reshape(n * c, math.prod(kernel_size), *_out_size(out_size, *window))
        _parallel(_col2im, n * c, cols.size, windows, 0, window, _planes(out))


def _row_blocks(c: int, kernel_size: Size, out_size: Size) -> Iterator[tuple[int, int]]:
    """(first, end) rows of output whose im2col columns make one block."""
    rows = max(1, _BLOCK // max(1, c * math.prod(kernel_size) * out_size[1]))
    for first in range(0, out_size[0], rows):
        yield first, min(first + rows, out_size[0])


@_ieee
def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    batch_norm: BatchNorm | None,
    residual: Array | None,
    activation: Activation,
    y: Array,
) -> None:
    x = _input(x)
    (n, c), (o, _, kh, kw), (oh, ow) = x.shape[:2], weight.shape, y.shape[2:]
    k = c // groups * kh * kw
    w = weight.reshape(groups, o // groups, k)
    window = ((kh, kw), stride, padding, dilation)
    pointwise = (kh, kw, *stride, *padding) == (1, 1, 1, 1, 0, 0)  # im2col would be a copy
    with _output(y) as out:
        matrix = out.reshape(n, groups, o // groups, oh * ow)
        for i in range(n):
            for first, end in _row_blocks(c, (kh, kw), (oh, ow)):
                if pointwise:
                    cols = x[i, :, first:end]
                else:
                    cols = np.empty((c, kh * kw, end - first, ow), x.dtype)
                    _parallel(_im2col, c, cols.size, x[i], first, window, cols)
                part = slice(first * ow, end * ow)
                np.matmul(w, cols.reshape(groups, k, (end - first) * ow), out=matrix[i, :, :, part])
        if bias is not None or batch_norm is not None or residual is not None or activation is not None:
            _run_affine(out, bias, batch_norm, residual, activation, out)


@_ieee
def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    accumulate: bool,
    dx: Array | None,
    dweight: Array | None,
    dbias: Array | None,
) -> None:
    """dx, dweight and dbias may be None: not wanted."""
    dy, x = _input(dy), _input(x)
    (n, c), (o, _, kh, kw), (oh, ow) = x.shape[:2], weight.shape, dy.shape[2:]
    k = c // groups * kh * kw
    w_transposed = weight.reshape(groups, o // groups, k).swapaxes(1, 2)
    dy_matrix = dy.reshape(n, groups, o // groups, oh * ow)
    total = np.zeros((groups, o // groups, k), dy.dtype)
    window = ((kh, kw), stride, padding, dilation)
    with _output(np.empty(0) if dx is None else dx) as out:
        out[...] = 0
        for i in range(n):
            for first, end in _row_blocks(c, (kh, kw), (oh, ow)):
                dy_part = dy_matrix[i, :, :, first * ow : end * ow]
                cols = np.empty((c, kh * kw, end - first, ow), x.dtype)
                matrix = cols.reshape(groups, k, (end - first) * ow)
                if dweight is not None:
                    _parallel(_im2col, c, cols.size, x[i], first, window, cols)
                    total += dy_part @ matrix.swapaxes(1, 2)
                if dx is not None:
                    np.matmul(w_transposed, dy_part, out=matrix)
                    _parallel(_col2im, c, cols.size, cols, first, window, out[i])
    if dweight is not None:
        _put(total.reshape(weight.shape), accumulate, dweight)
    if dbias is not None:
        sums = np.empty(o)
        _parallel(_channel_sum, o, dy.size, dy.reshape(n, o, oh * ow), sums)
        _put(sums, accumulate, dbias)


# --- Steps over a flat buffer: those for which NumPy needs many passes ------------------------------------------------

_CHUNK = 1 << 14  # elements that are summed apart, so that no sum depends on the threads


def _slots(velocity: Array | None, like: Array) -> Array:
    """A slot that may be absent, as an array: empty then."""
    return np.empty(0, like.dtype) if velocity is None else velocity


@_jit
def _adam(
    lo: int,
    hi: int,
    grad: Array,
    param: Array,
    m: Array,
    v: Array,
    settings: tuple[float, ...],
    decay: float,
    decoupled: bool,
) -> None:
    rate, beta1, beta2, eps, keep, correction1, correction2 = settings
    grad, param, m, v = grad[lo:hi], param[lo:hi], m[lo:hi], v[lo:hi]
    for i in range(grad.size):
        g = grad[i] if decoupled else grad[i] + decay * param[i]  # a NaN in param alone is none in the moments
        m[i] += (1 - beta1) * (g - m[i])
        v[i] = beta2 * v[i] + (1 - beta2) * (g * g)
        param[i] = keep * param[i] - rate / correction1 * m[i] / (math.sqrt(v[i] / correction2) + eps)


def adam_step(grad: Array, hyper: Array, segments: Array, param: Array, m: Array, v: Array) -> None:
    lr, beta1, beta2, eps, step, decoupled = hyper.tolist()
    corrections = 1 - beta1**step, 1 - beta2**step
    for begin, end, factor, decay in segments.tolist():
        part, rate = slice(int(begin), int(end)), lr * factor
        if factor != 0:
            settings = (rate, beta1, beta2, eps, 1 - rate * decay if decoupled else 1.0, *corrections)
            arrays = _input(grad[part]), param[part], m[part], v[part]
            _parallel(_adam, arrays[0].size, arrays[0].size, *arrays, settings, decay, bool(decoupled))


@_jit
def _rmsprop(
    lo: int, hi: int, grad: Array, param: Array, square: Array, velocity: Array, settings: tuple[float, ...]
) -> None:
    rate, decay, alpha, eps, momentum = settings
    grad, param, square, velocity = grad[lo:hi], param[lo:hi], square[lo:hi], velocity[lo:hi]
    if velocity.size:
        for i in range(grad.size):
            g = grad[i] + decay * param[i]
            square[i] = alpha * square[i] + (1 - alpha) * (g * g)
            velocity[i] = momentum * velocity[i] + g / (math.sqrt(square[i]) + eps)
            param[i] -= rate * velocity[i]
    else:
        for i in range(grad.size):
            g = grad[i] + decay * param[i]
            square[i] = alpha * square[i] + (1 - alpha) * (g * g)
            param[i] -= rate * (g / (math.sqrt(square[i]) + eps))


def rmsprop_step(
    grad: Array, hyper: Array, segments: Array, param: Array, square: Array, velocity: Array | None
) -> None:
    lr, alpha, eps, momentum = hyper.tolist()
    moving = _slots(velocity, grad)
    for begin, end, factor, decay in segments.tolist():
        part = slice(int(begin), int(end))
        if factor != 0:
            arrays = _input(grad[part]), param[part], square[part], moving[part]
            _parallel(_rmsprop, arrays[0].size, arrays[0].size, *arrays, (lr * factor, decay, alpha, eps, momentum))


@_jit
def _penalty(lo: int, hi: int, param: Array, grad: Array, l1: float, l2: float, sums: Array) -> None:
    """Chunks lo..hi: sums[chunk] = (sum |p|, sum p^2), in two chains each; grad may be empty."""
    for chunk in range(lo, hi):
        p = param[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        a = b = c = d = 0.0
        for i in range(0, p.size - 1, 2):
            u, v = np.float64(p[i]), np.float64(p[i + 1])
            a, b, c, d = a + abs(u), b + abs(v), c + u * u, d + v * v
        if p.size % 2:
            u = np.float64(p[p.size - 1])
            a, c = a + abs(u), c + u * u
        sums[chunk, 0], sums[chunk, 1] = a + b, c + d
        if grad.size:
            g = grad[chunk * _CHUNK : (chunk + 1) * _CHUNK]
            for i in range(p.size):
                w = np.float64(p[i])
                sign = l1 if w > 0 else -l1 if w < 0 else l1 * w  # 0 at 0, NaN at NaN
                g[i] += sign + l2 * w


@_ieee
def penalty(param: Array, segments: Array, grad: Array | None, loss: Array) -> None:
    slopes = _slots(grad, param)
    for begin, end, l1, l2 in segments.tolist():
        part = slice(int(begin), int(end))
        if l1 or l2:
            p = _input(param[part])
            sums = np.zeros((-(-p.size // _CHUNK), 2))
            _parallel(_penalty, len(sums), p.size, p, slopes[part], l1, l2, sums)
            sizes, squares = sums.sum(axis=0)
            loss += l1 * sizes + l2 / 2 * squares


@_jit
def _squares(lo: int, hi: int, x: Array, sums: Array) -> None:
    """Chunks lo..hi: sums[chunk] = sum x^2, in four chains."""
    for chunk in range(lo, hi):
        part = x[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        a = b = c = d = 0.0
        full = part.size // 4 * 4
        for i in range(0, full, 4):
            s, t, u, v = np.float64(part[i]), np.float64(part[i + 1]), np.float64(part[i + 2]), np.float64(part[i + 3])
            a, b, c, d = a + s * s, b + t * t, c + u * u, d + v * v
        for i in range(full, part.size):
            s = np.float64(part[i])
            a += s * s
        sums[chunk] = (a + b) + (c + d)


@_ieee
def square_sum(x: Array, segments: Array, total: Array) -> None:
    for begin, end, rate, _ in segments.tolist():
        if rate != 0:
            part = _input(x[int(begin) : int(end)])
            sums = np.zeros(-(-part.size // _CHUNK))
            _parallel(_squares, sums.size, part.size, part, sums)
            total += sums.sum()


@_jit
def _max_norm(lo: int, hi: int, units: Array, limit: float) -> None:
    """units (outer, units, inner): [:, u, :] for u in lo..hi."""
    outer, _, inner = units.shape
    for unit in range(lo, hi):
        a = b = 0.0
        for o in range(outer):
            row = units[o, unit]
            for i in range(0, inner - 1, 2):
                u, v = np.float64(row[i]), np.float64(row[i + 1])
                a, b = a + u * u, b + v * v
            if inner % 2:
                u = np.float64(row[inner - 1])
                a += u * u
        norm = math.sqrt(a + b)
        if norm > limit:
            scale = limit / norm
            for o in range(outer):
                row = units[o, unit]
                for i in range(inner):
                    row[i] *= scale


def max_norm(segments: Array, param: Array) -> None:
    for begin, end, outer, inner, limit in segments.tolist():
        if begin < end:
            units = param[int(begin) : int(end)].reshape(int(outer), -1, int(inner))
            _parallel(_max_norm, units.shape[1], units.size, units, limit)


def conv_transpose2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    out_size: Size,
    activation: Activation,
    y: Array,
) -> None:
    with _output(y) as out:
        conv2d_backward(
            x, np.empty(y.shape, x.dtype), weight, stride, padding, dilation, groups, False, out, None, None
        )
        if bias is not None or activation is not None:
            _run_affine(out, bias, None, None, activation, out)


# --- Interpolation and padding ----------------------------------------------------------------------------------------


@_jit
def _resample(
    lo: int,
    hi: int,
    x: Array,
    row_begin: Array,
    row_index: Array,
    row_weight: Array,
    column_begin: Array,
    column_index: Array,
    column_weight: Array,
    value: Array,
    y: Array,
) -> None:
    _, _, w, inner = x.shape
    _, oh, ow, _ = y.shape
    u = np.empty((w, inner), x.dtype)
    for task in range(lo, hi):
        o, i = task // oh, task % oh
        if row_begin[i] == row_begin[i + 1]:
            y[o, i] = value[0]
            continue
        for s in range(row_begin[i], row_begin[i + 1]):
            first, weight, row = s == row_begin[i], row_weight[s], row_index[s]
            for j in range(w):
                for k in range(inner):
                    term = weight * x[o, row, j, k]
                    u[j, k] = term if first else u[j, k] + term
        for j in range(ow):
            begin, end = column_begin[j], column_begin[j + 1]
            for k in range(inner):
                total = value[0]
                for t in range(begin, end):
                    term = column_weight[t] * u[column_index[t], k]
                    total = term if t == begin else total + term
                y[o, i, j, k] = total


def _table(table: Table, size: int, dtype: Any) -> tuple[Array, Array, Array]:
    """The arrays of a table, those of the identity made."""
    if table:
        return table[:3]
    return np.arange(size + 1), np.arange(size), np.ones(size, dtype)


def resample(x: Array, rows: Table, columns: Table, value: float, y: Array) -> None:
    outer, oh = y.shape[:2]
    tables = *_table(rows, x.shape[1], x.dtype), *_table(columns, x.shape[2], x.dtype)
    with _output(y) as out:
        _parallel(_resample, outer * oh, y.size, _input(x), *tables, np.array([value], x.dtype), out)
