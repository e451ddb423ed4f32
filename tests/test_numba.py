"""What is Numba's alone: its signatures, threads, forks, blocks, and the accuracy of its exp.

That its ops compute what reference.py does is tested for all backends at once, in test_parity.py.
"""

import inspect
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed, so the fallback that these tests are about cannot run")

from fastnn import _backends, _numba, reference
from fastnn._backends import ACTIVATIONS
from fastnn._resampling import interpolation, padding

KEY = np.array([1, 2], np.uint64)


@pytest.fixture(autouse=True)
def small_work_is_shared(monkeypatch):
    """Threads and blocks even for arrays of test size; the thread count as it was afterwards."""
    monkeypatch.setattr(_numba, "_SERIAL_BELOW", 16)
    monkeypatch.setattr(_numba, "_BLOCK", 300)
    monkeypatch.setattr(_numba, "_threads", 1)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def calls():
    """Arguments of each op, on shapes that neither threads nor blocks divide."""
    x, dy, v = draw(3, 4, 7, 9), draw(3, 4, 7, 9, seed=1), np.abs(draw(4, seed=2))
    w, y, b = draw(6, 2, 3, 3, seed=3), draw(3, 6, 7, 9, seed=4), draw(6, seed=5)
    for op, usual in ACTIVATIONS.items():
        yield f"{op}_forward", (x, *usual)
        yield f"{op}_backward", (dy, x, *usual)
    yield "prelu_forward", (x.reshape(3, 4, 63), v)
    yield "prelu_backward", (dy.reshape(3, 4, 63), x.reshape(3, 4, 63), v)
    yield "exp_forward", (x,)
    for p in 0.5, 0.3:
        yield "dropout_forward", (x, KEY, p)
        yield "dropout_backward", (dy, reference.dropout_forward(x, KEY, p)[1], p)
    yield "random_bits", (KEY, 1234)
    yield "batch_norm_forward", (x, v, v, v, v, 1e-5, ("gelu",))
    yield "batch_norm_train_forward", (x, v, None, 1e-5, None, False)
    yield "batch_norm_train_forward", (x, v, None, 1e-5, dy, True)
    for frozen in False, True:
        yield "batch_norm_backward", (dy, x, v, v, v, 1e-5, frozen, None)
    yield "batch_norm_backward", (dy, x, v, v, v, 1e-5, False, x)
    _, statistics = reference.group_norm_forward(x, v, None, 2, 1e-5)
    yield "group_norm_forward", (x, v, None, 2, 1e-5)
    yield "group_norm_backward", (dy, x, statistics, v, 2, 1e-5)
    window = (2, 3), (2, 1), (0, 1), (1, 1)
    pooled, argmax = reference.max_pool2d_forward(x, *window, (3, 9))
    yield "max_pool2d_forward", (x, *window, (3, 9))
    yield "max_pool2d_backward", (pooled, argmax, *window, (7, 9))
    yield "avg_pool2d_forward", (x, *window[:3], (3, 9), True, 0)
    yield "avg_pool2d_backward", (pooled, *window[:3], False, 0, (7, 9))
    parts, places = reference.adaptive_max_pool2d_forward(x, (3, 4))
    yield "adaptive_max_pool2d_forward", (x, (3, 4))
    yield "adaptive_max_pool2d_backward", (parts, places, (7, 9))
    yield "adaptive_avg_pool2d_forward", (x, (3, 4))
    yield "adaptive_avg_pool2d_backward", (parts, (7, 9))
    yield "global_avg_pool2d_forward", (x,)
    yield "global_avg_pool2d_backward", (x[:, :, :1, :1], (5, 6))
    yield "im2col_forward", (x, *window)
    yield "col2im_forward", (reference.im2col_forward(x, *window), (7, 9), *window)
    yield "conv2d_forward", (x, w, b, (1, 1), (1, 1), (1, 1), 2, (b, None, b, b * b, 1e-5), y, ("relu",))
    yield "conv2d_backward", (y, x, w, (1, 1), (1, 1), (1, 1), 2)
    flat, grad, slot, other = (np.abs(draw(40001, seed=seed)) for seed in range(4))  # several chunks of a sum
    segments = np.array([[3, 17000, 1.0, 0.1], [17000, 20000, 0.0, 0.0], [20001, 40001, 0.5, 0.0]])
    for decoupled in 0.0, 1.0:
        yield "adam_step", (grad, np.array([0.1, 0.9, 0.99, 1e-8, 3, decoupled]), segments, flat, slot, other)
    for velocity in other, None:
        yield "rmsprop_step", (grad, np.array([0.1, 0.9, 1e-8, 0.9]), segments, flat, slot, velocity)
    for slopes in grad, None:
        yield "penalty", (flat, segments, slopes, np.ones(1))
    yield "square_sum", (flat, segments, np.ones(1))
    yield "max_norm", (np.array([[1, 7, 1, 3, 0.5], [7, 39957, 2, 47, 3.0]]), flat)
    yield "conv_transpose2d_forward", (y, w, v, (2, 1), (1, 1), (1, 1), 2, (13, 9), ("relu",))
    rows, columns = interpolation(4, 9, None, "linear"), padding(7, -2, 3, "constant")
    yield "resample", (x, rows.table(x.dtype), columns.table(x.dtype), 0.5)


CALLS = [pytest.param(op, args, id=f"{op}-{i}") for i, (op, args) in enumerate(calls())]
OPS = [op for op in _backends.OUTPUTS if hasattr(_numba, op)]


def expected(op, args):
    results = getattr(reference, op)(*args)
    return results if isinstance(results, tuple) else (results,)


def run(op, args):
    if not _backends.OUTPUTS[op]:  # in place
        arrays = [np.array(a) if isinstance(a, np.ndarray) else a for a in args]
        getattr(_numba, op)(*arrays)
        return [a for a in arrays if a is not None]
    outputs = [np.full_like(result, 77) for result in expected(op, args)]
    accumulate = (False,) if "dweight" in _backends.OUTPUTS[op] else ()
    getattr(_numba, op)(*args, *accumulate, *outputs)
    return outputs


def test_every_op_is_called_here():
    assert {op for op, _ in calls()} == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_signature_is_that_of_the_reference(op):
    inputs = list(inspect.signature(getattr(reference, op)).parameters)
    outputs = _backends.OUTPUTS[op]
    accumulate = ["accumulate"] if "dweight" in outputs else []
    assert list(inspect.signature(getattr(_numba, op)).parameters) == [*inputs, *accumulate, *outputs]


@pytest.mark.parametrize(("op", "args"), CALLS)
def test_same_bits_for_any_number_of_threads(op, args):
    alone = run(op, args)
    for threads in 2, 3, 7:
        _numba.set_num_threads(threads)
        for one, many in zip(alone, run(op, args), strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize(("op", "args"), [call for call in CALLS if "conv" in call.values[0]])
def test_blocks_make_the_whole(op, args):
    """Convolutions in blocks of one to several output rows against the reference: 200 terms, of some units each."""
    for block in 1, 300, 1 << 20:
        _numba._BLOCK = block
        for ours, truth in zip(run(op, args), expected(op, args), strict=True):
            np.testing.assert_allclose(ours, truth, rtol=0, atol=100 * 2.0**-24 * np.abs(truth).max())


def test_gradients_accumulate_and_may_be_unwanted():
    dy, x, w, *rule = next(args for op, args in calls() if op == "conv2d_backward")
    dx, dweight, dbias = run("conv2d_backward", (dy, x, w, *rule))
    total_w, total_b = np.ones_like(dweight), np.ones_like(dbias)
    _numba.conv2d_backward(dy, x, w, *rule, True, None, total_w, total_b)
    np.testing.assert_array_equal(total_w, dweight + 1)
    np.testing.assert_array_equal(total_b, dbias + 1)
    alone = np.empty_like(dx)
    _numba.conv2d_backward(dy, x, w, *rule, False, alone, None, None)
    np.testing.assert_array_equal(alone, dx)


def test_outputs_of_any_strides():
    """Fortran order and channels-last (an element-wise op then works in memory order) get the same numbers."""
    x = draw(2, 3, 5, 4)
    for op in "tanh_forward", "global_avg_pool2d_forward":
        (truth,) = run(op, (x,))
        channels_last = np.empty_like(truth.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        for y in np.empty_like(truth, order="F"), channels_last, np.empty((*truth.shape, 2), np.float32)[..., 1]:
            for given in x, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2):
                y[...] = 77
                getattr(_numba, op)(given, y)
                np.testing.assert_array_equal(y, truth)


def test_read_only_input_compiles_nothing_new():
    x, y = draw(100), np.empty(100, np.float32)
    _numba.relu_forward(x, y)
    known = len(_numba._activation.signatures)
    x.flags.writeable = False
    _numba.relu_forward(x, y)
    assert len(_numba._activation.signatures) == known
    assert not x.flags.writeable


def test_several_python_threads_at_once():
    _numba.set_num_threads(2)
    op, args = "conv2d_forward", next(args for op, args in calls() if op == "conv2d_forward")
    (truth,) = run(op, args)
    with ThreadPoolExecutor(4) as pool:
        for (y,) in pool.map(lambda _: run(op, args), range(40)):
            np.testing.assert_array_equal(y, truth)


def _tanh_in_child(queue):
    y = np.empty(1000, np.float32)
    _numba.tanh_forward(np.ones(1000, np.float32), y)
    queue.put(float(y.sum()))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 warns: the point of this test
def test_fork_after_threads():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this platform does not fork")
    _numba.set_num_threads(2)
    y = np.empty(1000, np.float32)
    _numba.tanh_forward(np.ones(1000, np.float32), y)
    assert _numba._pool is not None
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_tanh_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == float(y.sum())
    finally:
        child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("environment", "affinity", "quota", "count", "why"),
    [
        ({}, 8, np.inf, 8, "processors that this process may run on: 8"),
        ({}, 8, 2.5, 3, "CPU quota of the container: 2.5"),
        ({}, 2, 2.5, 2, "processors that this process may run on: 2"),
        ({}, 8, 0.1, 1, "CPU quota of the container: 0.1"),
        ({"OMP_NUM_THREADS": "4,2"}, 8, np.inf, 4, "OMP_NUM_THREADS=4"),
        ({"OMP_NUM_THREADS": "16"}, 8, np.inf, 8, "processors that this process may run on: 8"),
        ({"OMP_NUM_THREADS": "many"}, 8, np.inf, 8, "processors that this process may run on: 8"),
        ({"FASTNN_NUM_THREADS": "16", "OMP_NUM_THREADS": "1"}, 8, 1.0, 16, "FASTNN_NUM_THREADS=16"),
    ],
)
def test_default_threads(environment, affinity, quota, count, why):
    assert _numba._choose_threads(environment, affinity, quota) == (count, why)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025"])
def test_wrong_thread_count_raises(text):
    with pytest.raises(ValueError, match="FASTNN_NUM_THREADS must be a whole number from 1 to 1024"):
        _numba._choose_threads({"FASTNN_NUM_THREADS": text}, 8, np.inf)


def test_quota_is_positive():
    assert _numba._cpu_quota() > 0


def ulps(actual, truth):
    return np.max(np.abs(actual - truth) / np.spacing(np.abs(truth)))


def test_exp_accuracy():
    """Against NumPy's exp (below 1 ulp itself): within the 1.5 ulp that the docstring states, and 1 of NumPy's."""
    x = np.concatenate([np.linspace(-708, 709.78, 200_001), np.linspace(-1, 1, 200_001)])
    y = np.empty_like(x)
    _numba.exp_forward(x, y)
    assert ulps(y, np.exp(x)) <= 2.5
    ends = np.array([-np.inf, -800.0, 0.0, 710.0, np.inf, np.nan])
    y = np.empty_like(ends)
    _numba.exp_forward(ends, y)
    np.testing.assert_array_equal(y, [0, 0, 1, np.inf, np.inf, np.nan])


def test_expm1_accuracy():
    """elu with alpha 1 is exp(x) - 1: within the stated 1.5 ulp, and 1 of NumPy's, down to the smallest numbers."""
    x = -np.concatenate([np.linspace(0.001, 40, 200_001), np.geomspace(1e-300, 1, 200_001)])
    y = np.empty_like(x)
    _numba.elu_forward(x, 1.0, y)
    assert ulps(y, np.expm1(x)) <= 2.5
