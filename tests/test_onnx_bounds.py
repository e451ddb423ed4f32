"""What an ONNX file may cost: small files that ask for much are refused, and the time grows as the file does."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn.onnx import importer
from onnx_files import external, field, node, port, tensor
from onnx_files import model as file_of

Array = np.ndarray
X, Y = [port("x", np.float32, ("n", 3))], [port("y")]
SHAPE = tensor("s", np.array([1, 64, 64, 64]))

#: Seconds of the processor that a file of 20,000 nodes may take: some 3 here. What is quadratic takes minutes.
SECONDS = 30


def cost(run: Callable[[], Any]) -> tuple[Any, float, int]:
    """What a call gives, its seconds, and the most bytes that Python and NumPy had at once."""
    tracemalloc.start()
    try:
        began = time.process_time()
        found = run()
        return found, time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(data: Any, match: str) -> int:
    """Load what must be refused; return the memory that it took."""

    def load() -> None:
        with pytest.raises(fnn.FileFormatError, match=match):
            fnn.onnx.load(data)

    _, seconds, memory = cost(load)
    assert seconds < SECONDS
    return memory


def ones(name: str, shape: list[int]) -> tuple[list[bytes], list[bytes]]:
    """A node that gives an array of a shape, and the shape."""
    return [node("ConstantOfShape", f"{name}.shape", name)], [tensor(f"{name}.shape", np.array(shape))]


def constants(*nodes: bytes, **shapes: list[int]) -> bytes:
    """A network that gives y, made of arrays of these shapes alone."""
    made = [ones(name, shape) for name, shape in shapes.items()]
    return file_of([n for ns, _ in made for n in ns] + list(nodes), [], Y, [t for _, ts in made for t in ts])


# ---- constants ----

WORK = {
    "convolution": constants(
        node("Conv", "a w", "y", name="it", pads=[1] * 6), a=[1, 64, 32, 64, 64], w=[64, 64, 3, 3, 3]
    ),
    "transposed": constants(node("ConvTranspose", "a w", "y", name="it"), a=[1, 512, 64, 64], w=[512, 512, 3, 3]),
    "taps": constants(node("Conv", "a w", "y", name="it"), a=[1, 1, 1024, 1024], w=[1, 1, 1024, 1024]),
    "product": constants(node("MatMul", "a b", "y", name="it"), a=[2048, 2048], b=[2048, 2048]),
    "gemm": constants(node("Gemm", "a b", "y", name="it", transA=1), a=[2048, 2048], b=[2048, 2048]),
    "pool": constants(node("MaxPool", "a", "y", name="it", kernel_shape=[64, 64], pads=[32] * 4), a=[4, 64, 128, 128]),
    "neighbours": constants(node("LRN", "a", "y", name="it", size=4096), a=[1, 4096, 64, 64]),
    "one by one": constants(node("Erf", "a", "y", name="it"), a=[1 << 26]),
    "spread": constants(node("Sum", " ".join(["a", *["b"] * 2000]), "y", name="it"), a=[1 << 22], b=[1]),
}


@pytest.mark.parametrize("kind", WORK)
def test_work_on_constants_is_bounded(kind: str) -> None:
    """A node that would compute for minutes is refused before it does, and named."""
    assert refused(WORK[kind], "node 'it' .*takes more than [0-9,]+ operations") < 600 << 20


def test_many_small_results_of_large_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but work is left behind: 20,000 sums of the same million."""
    monkeypatch.setattr(importer, "_MOST_WORK", 1 << 27)
    nodes, tensors = ones("a", [1 << 20])
    nodes += [node("ReduceSum", "a", f"r{i}", name=f"sum{i}") for i in range(20_000)]
    nodes += [node("Concat", " ".join(f"r{i}" for i in range(20_000)), "y", axis=0)]
    refused(file_of(nodes, [], Y, tensors), r"node 'sum\d+' .*takes more than [0-9,]+ operations")


@pytest.mark.parametrize("op", ["Tile", "Expand"])
def test_chains_that_grow(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node doubles what the one before it gives."""
    sizes = [np.array([2] if op == "Tile" else [2] * i + [1]) for i in range(1, 31)]
    tensors = [tensor("a0", np.float32([1])), *(tensor(f"s{i}", size) for i, size in enumerate(sizes))]
    nodes = [node(op, f"a{i} s{i}", f"a{i + 1}", name=f"grow{i}") for i in range(30)]
    monkeypatch.setattr(importer, "_MOST_FOLDED", 64 << 20)
    memory = refused(file_of([*nodes, node("Identity", "a30", "y")], [], Y, tensors), "node 'grow23' .*64 MiB")
    assert memory < 200 << 20  # 64 MiB in all, and copies of the last


def test_networks_whose_weights_are_made() -> None:
    """VGG-19's 575 MB are made by a file of some kilobytes: as large, and allowed."""
    data = file_of(
        [*ones("w", [144 << 10, 1 << 10])[0], node("Gemm", "x w", "y", transB=1)],
        [port("x", np.float32, ("n", 1 << 10))],
        Y,
        ones("w", [144 << 10, 1 << 10])[1],
    )
    assert fnn.onnx.load(data)["Gemm_1"].weight.nbytes == 576 << 20


def test_numbers_that_follow_from_shapes() -> None:
    """What is made of shapes when arrays come is bounded as what is made at load: by 1 GiB, and by work."""
    nodes = [node("Shape", "x", "s0")]
    nodes += [node("ConstantOfShape", f"s{i}", f"c{i}") for i in range(3)]
    nodes += [node("Shape", f"c{i}", f"s{i + 1}") for i in range(3)]
    nodes += [node("Add", "c0 c1", "d"), node("Add", "d c2", "e"), node("Add", "x e", "y", name="it")]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, ("n", "m"))], Y))
    assert net(np.ones((2, 3), np.float32)).tolist() == np.ones((2, 3)).tolist()
    big = np.broadcast_to(np.float32(0), (1 << 13, 1 << 13))  # of 256 MiB, and of float64 by what is counted
    with pytest.raises(fnn.ShapeError, match=r"'it' .*more than 1024 MiB"):
        net(big)


def test_one_weight_in_many_scales() -> None:
    """Whatever the factors of Gemm, the weight is that of the file, once."""
    shared = tensor("w", np.zeros((1024, 512), np.float32))
    nodes = [node("Gemm", "x w", f"r{i}", name=f"gemm{i}", alpha=1.0 + i / 8) for i in range(400)]
    nodes += [node("Concat", " ".join(f"r{i}" for i in range(400)), "y", axis=0)]
    data = file_of(nodes, [port("x", np.float32, ("n", 1024))], Y, [shared])
    net, _, memory = cost(lambda: fnn.onnx.load(data))
    assert memory < 16 << 20 and len({id(array) for array in net.params.values()}) == 1


# ---- data beside the file ----


def test_data_outside_is_read_once_and_counted(tmp_path: Path) -> None:
    """400 tensors that name one piece of 1 MB; and 400 that name pieces of it that overlap."""
    array = np.arange(1 << 18, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(array.tobytes())

    def load(count: int, size: int, step: int) -> Any:
        tensors = [external(f"w{i}", array[:size], "w.bin", offset=step * i) for i in range(count)]
        nodes = [node("Add", f"{f'r{i - 1}' if i else 'x'} w{i}", f"r{i}") for i in range(count)]
        nodes.append(node("Identity", f"r{count - 1}", "y"))
        (tmp_path / "net.onnx").write_bytes(file_of(nodes, [port("x", np.float32, ("n",))], Y, tensors))
        return fnn.onnx.load(tmp_path / "net.onnx")

    def refuse(step: int) -> None:
        with pytest.raises(fnn.FileFormatError, match=r"tensor 'w\d+': .* bytes are named of files of 1,048,576"):
            load(400, array.size - 400, step)

    for step in (0, 4):
        _, _, memory = cost(lambda step=step: refuse(step))
        assert memory < 32 << 20
    tied, _, memory = cost(lambda: load(4, array.size, 0))  # as exporters do
    assert memory < 12 * array.nbytes
    np.testing.assert_array_equal(tied(np.zeros(array.size, np.float32)), 4 * array)
    pieces = load(2, array.size // 2, array.nbytes // 2)
    np.testing.assert_array_equal(pieces(np.zeros(1, np.float32)), array[: 1 << 17] + array[1 << 17 :])


# ---- time ----

N = 20_000


def chain(read: str) -> bytes:
    """Numbers that follow from a shape through many steps, of which x reads none but the last, the last, or all."""
    nodes = [node("Shape", "x", "s0")] + [node("Add", f"s{i} one", f"s{i + 1}") for i in range(N // 2)]
    tensors = [tensor("one", np.array([1]))]
    last = N // 2
    if read == "one":
        nodes += [node("Cast", f"s{last}", "f", to=1), node("Add", "x f", "y")]
    elif read == "last":
        nodes += [node("Neg", "x", "a0")]
        nodes += [node("Reshape", f"a{i} t", f"a{i + 1}") for i in range(N // 2)]
        nodes += [node("Sub", f"s{last} n", "t"), node("Identity", f"a{N // 2}", "y")]
        tensors.append(tensor("n", np.array([last])))
    else:
        nodes += [node("Cast", f"s{i}", f"f{i}", to=1) for i in range(last)]
        nodes += [node("Max", " ".join(["x", *(f"f{i}" for i in range(last))]), "y")]
    return file_of(nodes, [port("x", np.float32, ("n",))], Y, tensors)


def calls() -> bytes:
    """A function that is called often, with long names, many inputs of which one is given, and an opset for each."""
    names = b"".join(field(4, f"input{i}") for i in range(N // 4))
    inner = "v" * 10_000
    body = field(1, "F") + names + field(5, "out") + field(10, "mine")
    body += field(7, node("Relu", "input0", inner)) + field(7, node("Neg", inner, "out", name="n" * 10_000))
    body += b"".join(field(9, field(1, f"domain{i}") + field(2, 1)) for i in range(N // 8))
    body += field(9, field(1, "") + field(2, 17))
    nodes = [node("F", f"a{i}", f"a{i + 1}", domain="mine", name="c" * 100) for i in range(N // 2)]
    nodes += [node("Neg", "x", "a0"), node("Identity", f"a{N // 2}", "y")]
    opsets = b"".join(field(8, field(1, f"domain{i}") + field(2, 1)) for i in range(N // 8))
    return file_of(nodes, X, Y, more=field(25, body) + field(8, field(1, "mine") + field(2, 1)) + opsets)


def cycle() -> bytes:
    nodes = [node("Relu", f"a{i}", f"a{(i + 1) % N}") for i in range(N)]
    return file_of([*nodes, node("Neg", "a0", "y")], X, Y)


def moved() -> bytes:
    """A weight that is transposed many times."""
    nodes = [node("Transpose", f"w{i}", f"w{i + 1}", perm=[1, 0]) for i in range(N)]
    return file_of([*nodes, node("MatMul", f"x w{N}", "y")], X, Y, [tensor("w0", np.eye(3, dtype=np.float32))])


def equal_names() -> bytes:
    """Nodes that all have one name, with a weight each, and names of which others are made."""
    nodes = [node("Mul", f"a{i} w{i}", f"a{i + 1}", name="same") for i in range(N)]
    nodes[0] = node("Mul", "x w0", "a1", name="same")
    tensors = [tensor(f"w{i}", np.ones(3, np.float32)) for i in range(N)]
    return file_of([*nodes, node("Identity", f"a{N}", "y")], X, Y, tensors)


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "chain of shapes, read once": (lambda: chain("one"), ""),
    "chain of shapes, the last read often": (lambda: chain("last"), ""),
    "chain of shapes, each read": (lambda: chain("all"), ""),
    "calls of a function": (calls, ""),
    "moves of a weight": (moved, ""),
    "equal names": (equal_names, ""),
    "a cycle": (cycle, "cycle: '.*' <- .* <- '"),
}


@pytest.mark.parametrize("kind", FILES)
def test_time_grows_as_the_file_does(kind: str) -> None:
    make, match = FILES[kind]
    data = make()
    began = time.process_time()
    if match:
        with pytest.raises(fnn.FileFormatError, match=match):
            fnn.onnx.load(data)
    else:
        net = fnn.onnx.load(data)
    assert time.process_time() - began < SECONDS
    if match:
        return
    x = np.float32([1, -2, 3]) if "shapes" in kind else np.float32([[1, -2, 3]])
    y = net(x)
    assert time.process_time() - began < 2 * SECONDS
    a = -x
    for _ in range(4):  # after two calls it no longer changes
        a = -np.maximum(a, 0)
    expected = {
        "chain of shapes, read once": x + 3 + N // 2,
        "chain of shapes, the last read often": -x,
        "chain of shapes, each read": np.full(3, 2 + N // 2),
        "calls of a function": a,
        "moves of a weight": x,
        "equal names": x,
    }[kind]
    np.testing.assert_array_equal(y, expected)


def test_functions_with_many_inputs_are_bounded() -> None:
    """Each call of one that calls one with 10,000 inputs."""
    absent = "-" + " -" * 9_998
    inner = field(1, "G") + b"".join(field(4, f"i{i}") for i in range(10_000)) + field(5, "out") + field(10, "mine")
    inner += field(7, node("Neg", "i0", "out"))
    outer = field(1, "F") + field(4, "a") + field(5, "out") + field(10, "mine")
    outer += b"".join(
        field(7, node("G", f"{f'b{i - 1}' if i else 'a'} {absent}", f"b{i}", domain="mine")) for i in range(20)
    ) + field(7, node("Identity", "b19", "out"))
    nodes = [node("F", f"{f'c{i - 1}' if i else 'x'}", f"c{i}", domain="mine") for i in range(1000)]
    data = file_of([*nodes, node("Identity", "c999", "y")], X, Y, more=field(25, inner) + field(25, outer))
    refused(data, f"more than {importer._MOST_WRITTEN} inputs, outputs")


def test_a_long_network_still_reads_well() -> None:
    """Names of what functions hold are made of theirs, cut where they are long."""
    body = field(1, "F") + field(4, "a") + field(5, "out") + field(10, "mine")
    body += field(7, node("Relu", "a", "inside")) + field(7, node("Neg", "inside", "out", name="last"))
    nodes = [node("F", "x", "y", domain="mine", name="block")]
    net = fnn.onnx.load(file_of(nodes, X, Y, more=field(25, body) + field(8, field(1, "mine") + field(2, 1))))
    assert [n.name for n in net.nodes if n.name.startswith("block")] == ["block/Relu", "block/last"]


def test_one_constant_of_a_function_is_one_array() -> None:
    """A constant in a function that is called often is not copied for each call."""
    value = np.ones((512, 512), np.float16)
    body = field(1, "F") + field(4, "a") + field(5, "out") + field(10, "mine")
    body += field(7, node("Constant", "", "c", value=value)) + field(7, node("Add", "a c", "out"))
    nodes = [node("F", f"a{i}" if i else "x", f"a{i + 1}", domain="mine") for i in range(1000)]
    data = file_of(
        [*nodes, node("Identity", "a1000", "y")], [port("x", np.float32, (512, 512))], Y,
        more=field(25, body) + field(8, field(1, "mine") + field(2, 1)),
    )  # fmt: skip
    net, _, memory = cost(lambda: fnn.onnx.load(data))
    assert memory < 64 << 20
    assert net(np.zeros((512, 512), np.float32)).max() == 1000


@pytest.mark.parametrize("op", ["Tile", "Concat"])
def test_growth_is_seen_before_anything_is_computed(op: str) -> None:
    """Chains that double: 27 s and 2 GB it took until one was refused."""
    tensors = [tensor("r", np.array([1, 8]))] if op == "Tile" else []
    names = ["x", *(f"v{i}" for i in range(50))]
    nodes = [
        node("Tile", f"{a} r", b, name=f"at {b}")
        if op == "Tile"
        else node("Concat", f"{a} {a}", b, name=f"at {b}", axis=1)
        for a, b in pairwise(names)
    ]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, ("n", 4))], [port("v49")], tensors))
    assert len(net.nodes) == 51
    x = np.ones((2, 4), np.float32)
    for run in (net, net.forward):
        error, seconds, memory = cost(lambda run=run: _error(lambda: run(x)))
        assert "'at v" in str(error) and "too large" in str(error)
        assert memory < 1 << 20 and seconds < 5
    with pytest.raises(fnn.FileFormatError, match=r"'at v.*too large"):  # where the file fixes all sizes
        fnn.onnx.load(file_of(nodes, [port("x", np.float32, (2, 4))], [port("v49")], tensors))


def _error(run: Any) -> Exception | None:
    try:
        run()
    except fnn.ShapeError as error:
        return error
    return None
