"""Graph: what is wired wrongly raises at construction; what runs agrees with plain functions, program and closures."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from test_training import same

import fastnn as fnn
from fastnn import _backends, optim
from fastnn import functional as F
from fastnn import layers as L
from nets import build
from test_compiler import close


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def block(c: int, o: int) -> L.Layer:
    rng = np.random.default_rng(c)
    return L.Sequential(
        ("conv", L.Conv2d(c, o, 3, padding=1, bias=False, rng=rng)), ("norm", L.BatchNorm2d(o)), ("act", L.ReLU())
    )


def skips() -> L.Graph:
    """Convolutions at two resolutions, with a skip connection past the lower one."""
    return L.Graph(
        ("down", block(3, 4), "x"),
        ("half", L.Conv2d(4, 8, 2, stride=2, rng=1), "down"),
        ("bottom", block(8, 8), "half"),
        ("rows", L.Reshape(4, 2, 4, 4), "bottom"),
        ("up", L.Reshape(2, 8, 8), "rows"),
        ("joined", L.Join(), "up", "down"),
        ("mask", L.Conv2d(6, 1, 1, rng=2), "joined"),
    )


def two_inputs() -> L.Graph:
    """An image and a vector."""
    return L.Graph(
        ("block", block(3, 4), "image"),
        ("pool", L.GlobalAvgPool2d(), "block"),
        ("flat", L.Flatten(), "pool"),
        ("dense", L.Linear(5, 4, rng=1), "vector"),
        ("drop", L.Dropout(0.5), "dense"),
        ("both", L.Join(), "flat", "drop", "flat"),
        ("scores", L.Linear(12, 3, rng=2), "both"),
        inputs=("image", "vector"),
    )


def heads() -> L.Graph:
    """Two inputs and three outputs, one of which is read inside too."""
    return L.Graph(
        *two_inputs().nodes,
        ("sum", L.Add(), "flat", "drop"),
        ("value", L.Linear(4, 1, rng=3), "sum"),
        inputs=("image", "vector"),
        outputs=("scores", "value", "flat"),
    )


IMAGE, VECTOR = normal(6, 3, 8, 8), normal(6, 5)


# ---- wiring ---------------------------------------------------------------------------------------------------------

relu = L.ReLU()


@pytest.mark.parametrize(
    ("nodes", "options", "words"),
    [
        ([("a", relu, "y")], {}, "node 'a' reads 'y', which nothing gives"),
        ([("conv1", relu, "x"), ("b", relu, "conv2")], {}, "did you mean 'conv1'?"),
        ([("a", relu, "x")], {"outputs": "b"}, "its outputs name 'b', which nothing gives"),
        ([("a", relu, "x"), ("a", relu, "x")], {}, "two nodes are called 'a'"),
        ([("x", relu, "x")], {}, "value 'x' of node 'x' is an input of the graph too"),
        ([L.Node("a", relu, "x", outputs="v"), L.Node("b", relu, "x", outputs="v")], {},
         "value 'v' of node 'b' comes from node 'a' too"),
        ([L.Node("a", relu, "x", outputs=("v", "v"))], {}, "value 'v' of node 'a' comes from node 'a' too"),
        ([L.Node("a", relu, "x", outputs=())], {"outputs": "x"}, "node 'a' gives nothing"),
        ([("a", relu, "c"), ("b", relu, "a"), ("c", L.Add(), "b", "x")], {},
         "the nodes form a cycle: 'a' <- 'c' <- 'b' <- 'a'"),
        ([("a", relu, "a")], {}, "the nodes form a cycle: 'a' <- 'a'"),
        ([("a", relu, "x"), ("b", relu, "x"), ("c", relu, "b")], {"outputs": "a"}, "no output needs 'b', 'c'"),
        ([("a", relu, "x")], {"inputs": ("x", "x")}, "two inputs are called 'x'"),
        ([("a", relu, "x")], {"outputs": ("a", "a")}, "the output 'a' is named twice"),
        ([("a", relu, "x")], {"outputs": ()}, "names no output"),
        ([], {}, "at least one node"),
        ([("", relu, "x")], {}, "a layer's name has at least one character"),
        ([("a", L.Sequential(("b", relu)), "x"), ("a.b", relu, "a")], {}, "two layers have the full name 'a.b'"),
    ],
)  # fmt: skip
def test_wrong_wiring(nodes, options, words):
    with pytest.raises(ValueError, match=r"^Graph: ") as caught:
        L.Graph(*nodes, **options)
    assert words in str(caught.value)


def test_a_node_holds_a_layer():
    with pytest.raises(TypeError, match="'a' is function, not a layer"):
        L.Graph(("a", lambda x: x, "x"))


def test_nodes_may_come_in_any_order_and_number():
    chain = [(f"n{i}", L.ReLU(), f"n{i - 1}" if i else "x") for i in range(3000)]
    model = L.Graph(*chain[::-1], outputs="n2999")
    assert [node.name for node in model.nodes] == [name for name, *_ in chain]
    np.testing.assert_array_equal(model(np.float32([1, -1])), [1, 0])


def test_names_with_dots_are_names_of_arrays():
    model = L.Graph(("block1.conv", L.Conv2d(3, 4, 1, rng=0), "x"), ("block1.norm", L.BatchNorm2d(4), "block1.conv"))
    assert list(model.params) == ["block1.conv.weight", "block1.conv.bias", "block1.norm.weight", "block1.norm.bias"]
    other = L.Graph(("block1.conv", L.Conv2d(3, 4, 1, rng=1), "x"), ("block1.norm", L.BatchNorm2d(4), "block1.conv"))
    other.load_state(model.state())
    np.testing.assert_array_equal(other(IMAGE), model(IMAGE))
    assert model["block1.conv"] is model[0] and len(model) == 2


# ---- what it computes -----------------------------------------------------------------------------------------------


def test_values_are_those_of_the_functions():
    model = skips()
    down = model["down"](IMAGE)
    bottom = model["bottom"](model["half"](down))
    joined = np.concatenate([bottom.reshape(6, 2, 8, 8), down], 1)
    np.testing.assert_array_equal(model(IMAGE), model["mask"](joined))


@pytest.mark.parametrize(
    ("make", "xs"),
    [
        (skips, (IMAGE,)),
        (two_inputs, (IMAGE, VECTOR)),
        (heads, (IMAGE, VECTOR)),
        (
            lambda: L.Graph(("s", L.Add(), "a", "a"), ("p", L.Mul(), "s", "a"), inputs="a", outputs=("p", "a")),
            (VECTOR,),
        ),
        (lambda: L.Graph(("p", L.Mul(), "x", "c"), ("c", L.Parameter(np.ones((6, 5)))), outputs="p"), (VECTOR,)),
        (lambda: L.Graph(("p", L.Mul(), "x", "f"), inputs=("x", "f")), (IMAGE, normal(6, 3, 1, 1))),
    ],
)
def test_gradients(make, xs):
    report = fnn.gradcheck(make(), xs if len(xs) > 1 else xs[0], rng=0)
    assert report.ok, str(report)
    assert set(report.errors) >= ({f"x{i}" for i in range(len(xs))} if len(xs) > 1 else {"x"})


def test_gradients_of_what_is_not_used_are_zero():
    model = L.Graph(
        L.Node("parts", L.Split([1, 2, 2]), "a", outputs=("p", "q", "r")),
        ("y", L.ReLU(), "q"),
        ("z", L.ReLU(), "p"),
        inputs=("a", "unread"),
        outputs=("y", "z"),
    )
    a = np.abs(VECTOR)
    (y, _), backward = model.forward(a, IMAGE)
    da, du = backward(np.ones_like(y), None)
    np.testing.assert_array_equal(da, np.repeat([[0, 1, 1, 0, 0]], 6, 0))
    assert du.shape == IMAGE.shape and not du.any()
    da, du = backward(None, None)
    assert da.shape == a.shape and not da.any()


def test_backward_may_be_called_twice_and_gathers():
    model, x, _ = build("wired")
    y, backward = model.forward(x, 0)
    dx = backward(np.ones_like(y))
    once = {k: g.copy() for k, g in model.grads.items()}
    np.testing.assert_array_equal(backward(np.ones_like(y)), dx)
    for key, gradient in model.grads.items():
        # the layer in two nodes adds four parts, in another order than twice the sum of two
        np.testing.assert_allclose(gradient, 2 * once[key], rtol=0, atol=4 * 2.0**-23 * np.abs(gradient).max())


class Watching(L.Layer):
    """Notes how many arrays of those made by its kind are alive when it runs."""

    alive: list[weakref.ref] = []  # noqa: RUF012

    def __init__(self):
        self.counts = []

    def __call__(self, x):
        y = x + 1
        Watching.alive.append(weakref.ref(y))
        self.counts.append(sum(ref() is not None for ref in Watching.alive))
        return y

    def forward(self, x, rng=None):
        return self(x), lambda dy: dy


@pytest.mark.parametrize("call", [lambda m, x: m(x), lambda m, x: m.forward(x)[0]])
def test_arrays_live_until_their_last_reader(call):
    Watching.alive.clear()
    layers = [Watching() for _ in range(6)]
    names = ["x", *(f"n{i}" for i in range(6))]
    nodes = [(name, layer, before) for name, layer, before in zip(names[1:], layers, names, strict=False)]
    model = L.Graph(*nodes, ("sum", L.Add(), "n1", "n5"))
    call(model, VECTOR)
    gc.collect()
    # each sees its input and its output, and from the third on n1, which the sum reads
    assert [layer.counts for layer in layers] == [[1], [2], [2], [3], [3], [3]]
    assert not any(ref() is not None for ref in Watching.alive)


def test_errors_name_the_node():
    model = L.Graph(
        ("stem", L.Conv2d(3, 4, 3, rng=0), "x"),
        ("block.join", L.Join(), "stem", "x"),
    )
    message = (
        r"layer 'block\.join' \(Concat axis 1\): the branches must give equal shapes but for axis 1, got .*; "
        r"it reads 'stem' \(6, 4, 6, 6\), 'x' \(6, 3, 8, 8\)$"
    )
    for call in (model, model.forward, lambda x: model.output_shape(x.shape), lambda x: model.summary(x.shape)):
        with pytest.raises(fnn.ShapeError, match=message):
            call(IMAGE)
    with pytest.raises(fnn.ShapeError, match=r"layer 'block\.join'"):
        fnn.compile(model, IMAGE.shape)
    with pytest.raises(fnn.ShapeError, match=r"layer 'net\.stem' \(Conv2d 3->4 3x3\): expected \(N, 3, H, W\)"):
        L.Sequential(("net", model))(VECTOR)


def test_other_errors_carry_a_note():
    model = L.Graph(("drop", L.Dropout(0.5), "x"))
    with pytest.raises(TypeError, match="needs rng=") as caught:
        model.forward(VECTOR)
    assert caught.value.__notes__ == ["in node 'drop' (Dropout 0.5), which reads 'x' (6, 5)"]
    with pytest.raises(ValueError, match=r"shorter|longer") as wrong:
        L.Graph(L.Node("parts", L.Split([2, 3]), "x", outputs=("a", "b", "c")), outputs=("a", "b", "c"))(VECTOR)
    assert "in node 'parts'" in wrong.value.__notes__[0]

    class Lazy(L.Add):
        def forward(self, a, b, rng=None):
            return a + b, lambda dy: dy

    _, backward = L.Graph(("sum", Lazy(), "x", "x")).forward(VECTOR)
    with pytest.raises(TypeError, match="gives 1 gradients for 2 inputs") as lacking:
        backward(VECTOR)
    assert "node 'sum'" in lacking.value.__notes__[0]


def test_wrong_numbers_of_arrays():
    model = heads()
    with pytest.raises(TypeError, match=r"Graph: expected 2 inputs \(image, vector\), got 1"):
        model(IMAGE)
    _, backward = model.forward(IMAGE, VECTOR, rng=0)
    with pytest.raises(TypeError, match=r"backward expected 3 gradients \(scores, value, flat\), got 1"):
        backward(VECTOR)
    program = fnn.compile(model, (IMAGE.shape, VECTOR.shape))
    with pytest.raises(TypeError, match="program: expected 2 inputs, got 1"):
        program(IMAGE)
    with pytest.raises(fnn.ShapeError, match=r"program: expected input 1 of shape \(N, 5\), got \(6, 4\)"):
        program(IMAGE, VECTOR[:, :4])
    with pytest.raises(fnn.ShapeError, match="expected 3 arrays in out, got 1"):
        program(IMAGE, VECTOR, out=np.zeros((6, 3), np.float32))


def test_rng_reaches_every_layer_once():
    model = two_inputs()
    np.testing.assert_array_equal(model.forward(IMAGE, VECTOR, rng=7)[0], model.forward(IMAGE, VECTOR, 7)[0])
    assert (model.forward(IMAGE, VECTOR, rng=7)[0] != model.forward(IMAGE, VECTOR, rng=8)[0]).any()


def test_copies_and_constants():
    model = L.Graph(
        ("index", L.Constant(np.arange(3))),
        ("scale", L.Parameter([1, 2, 3, 4, 5])),
        ("rows", L.Reshape(1), "scale"),
        outputs=("index", "rows"),
        inputs=(),
    )
    twin = model.copy(np.float64)
    assert {k: v.dtype for k, v in twin.state().items()} == {"scale.value": np.float64, "index.value": np.int64}
    twin.params["scale.value"][...] = 0
    index, rows = model()
    assert index.dtype == np.int64 and rows.dtype == np.float32 and rows.any()
    assert L.Constant(np.float64(2)).value.dtype == np.float32
    assert L.Constant(np.zeros(2, np.float16)).value.dtype == np.float32


# ---- programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_program_of_several_inputs_and_outputs(dtype):
    model = heads().copy(dtype)
    image, vector = IMAGE.astype(dtype), VECTOR.astype(dtype)
    program = fnn.compile(model, (image.shape, vector.shape))
    assert program.input_shape == (image.shape, vector.shape)
    assert program.output_shape == ((6, 3), (6, 1), (6, 4)) == model.output_shape(image.shape, vector.shape)
    for n in (6, 1, 4):
        got, want = program(image[:n], vector[:n]), model(image[:n], vector[:n])
        assert isinstance(got, tuple) and isinstance(want, tuple) and len(got) == len(want) == 3
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype
            close(a, b)
    out = tuple(np.full_like(y, np.nan) for y in program(image, vector))
    results = program(image, vector, out=out)
    for a, b, c in zip(results, out, program(image, vector), strict=True):
        assert a is b
        np.testing.assert_array_equal(a, c)
    with pytest.raises(ValueError, match="out overlaps an input"):
        program(image, vector, out=(*out[:2], image.reshape(-1)[:24].reshape(6, 4)))
    with pytest.raises(ValueError, match="out overlaps an input"):
        program(image[:3], vector[:3], out=(out[0][:3], out[2].reshape(-1)[:3].reshape(3, 1), out[2][:3]))


def test_what_is_read_elsewhere_is_not_merged_away():
    """Batch norm, sums and activations are folded only where nobody else reads what is in between."""
    model = L.Graph(
        ("conv", L.Conv2d(3, 4, 3, padding=1, rng=0), "x"),
        ("norm", L.BatchNorm2d(4), "conv"),
        ("act", L.ReLU(), "norm"),
        ("conv2", L.Conv2d(4, 4, 3, padding=1, rng=1), "act"),
        ("sum", L.Add(), "conv2", "norm"),
        ("end", L.ReLU(), "sum"),
        outputs=("end", "conv", "sum"),
    )
    steps = fnn.compile(model, IMAGE.shape)._graph.nodes
    assert [step.name for step in steps] == ["conv", "norm", "act", "conv2", "end"]
    assert steps[3].merged == ["Add"]
    for a, b in zip(fnn.compile(model, IMAGE.shape)(IMAGE), model(IMAGE), strict=True):
        close(a, b)


def test_outputs_that_are_inputs_views_or_constants():
    model = L.Graph(
        ("same", L.Identity(), "x"),
        ("flat", L.Flatten(), "same"),
        ("deep", L.Reshape(1, 3, 2, 4, 8), "same"),
        ("shift", L.Constant(np.ones(3, np.float32))),
        outputs=("x", "same", "flat", "deep", "shift"),
    )
    program = fnn.compile(model, IMAGE.shape)
    for image in (IMAGE, np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        for a, b in zip(program(image), model(image), strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.shares_memory(a, image) and not np.shares_memory(a, model["shift"].value)


def test_a_program_is_a_snapshot_of_constants_too():
    model = L.Graph(("c", L.Parameter(np.ones((6, 5)))), ("y", L.Mul(), "x", "c"))
    program = fnn.compile(model, VECTOR.shape)
    model["c"].value[...] = 7
    np.testing.assert_array_equal(program(VECTOR), VECTOR)


def test_summary_and_shapes():
    model = heads()
    table = model.summary((IMAGE.shape, VECTOR.shape))
    assert "block.conv" in table and "(6, 4)" in table
    assert table.splitlines()[-1].split() == ["total", str(sum(a.size for a in model.params.values()))]
    assert repr(model).startswith("Graph(\n  (block): Sequential(")


# ---- training -------------------------------------------------------------------------------------------------------


def train(make, x, y, program, loss="cross_entropy", steps=5, lr=0.05):
    model = make()
    trainer = fnn.Trainer(model, loss, optim.SGD(lr=lr, momentum=0.9), rng=3, program=program)
    return [trainer.step(x, y) for _ in range(steps)], model.state(), trainer


def test_several_inputs_train_by_programs_as_by_closures():
    labels = np.arange(6) % 3
    losses, state, trainer = train(two_inputs, (IMAGE, VECTOR), labels, True)
    expected, expected_state, _ = train(two_inputs, (IMAGE, VECTOR), labels, False)
    assert losses == expected and losses[-1] < losses[0]
    same(state, expected_state)
    if _backends.name == "compiled":
        assert any(p is not None for p in trainer._programs.values())


def test_nested_containers_sum_gradients_in_one_order():
    """What a container reads is read elsewhere too: a program adds what the closures add, in the same order."""

    def make() -> L.Graph:
        def inner(i: int) -> L.Layer:
            return L.Residual(L.Residual(L.Linear(5, 5, rng=i)), L.Concat(L.Linear(5, 2, rng=i), L.Linear(5, 3, rng=i)))

        body = L.Graph(
            ("a", inner(0), "v"), ("b", inner(1), "w"), ("c", L.Add(), "v", "w"), ("d", L.Add(), "a", "b"),
            ("e", L.Add(), "c", "d"), inputs=("v", "w"), outputs=("e", "a"),
        )  # fmt: skip
        return L.Graph(
            ("first", L.Linear(5, 5, rng=7), "x"),
            ("p", inner(2), "first"),
            L.Node("q", body, "first", "first", outputs=("q0", "q1")),
            ("r", inner(3), "first"),
            ("s", L.Add(), "p", "q0"),
            ("t", L.Add(), "r", "q1"),
            ("u", L.Concat(L.Identity(), inner(4), inner(5)), "first"),
            ("scores", L.Join(), "s", "t", "u"),
        )

    labels = np.arange(6) % 5
    losses, state, _ = train(make, VECTOR, labels, True)
    expected, expected_state, _ = train(make, VECTOR, labels, False)
    assert losses == expected
    same(state, expected_state)


def test_losses_on_several_outputs_run_by_closures():
    def loss(ys, labels):
        (scores, value, _), (classes, numbers) = ys, labels
        first, dscores = F.cross_entropy(scores, classes)
        second, dvalue = F.mse(value, numbers)
        return first + second, (dscores, dvalue, None)

    y = (np.arange(6) % 3, np.linspace(0, 1, 6, dtype=np.float32)[:, None])
    losses, _, trainer = train(heads, (IMAGE, VECTOR), y, True, loss, 40, 0.005)
    assert losses[-1] < losses[0] / 2
    scores, value, flat = trainer.predict((IMAGE, VECTOR), batch_size=4)
    for a, b in zip((scores, value, flat), trainer.model(IMAGE, VECTOR), strict=True):
        close(a, b)
    history = trainer.fit(((IMAGE, VECTOR), y), validation=((IMAGE, VECTOR), y), epochs=2, batch_size=4, progress=False)
    assert len(history.val_loss) == 2 and history.accuracy == []
    for step in (lambda: train(heads, (IMAGE, VECTOR), y[0], True), lambda: train(heads, (IMAGE, VECTOR), y, False)):
        with pytest.raises(TypeError, match="a loss by name takes one output"):
            step()


def test_fit_predict_and_evaluate_take_several_inputs():
    trainer = fnn.Trainer(two_inputs(), optimizer=optim.Adam(lr=0.02), rng=0)
    labels = (VECTOR[:, 0] > 0).astype(int)
    data = ((IMAGE, VECTOR), labels)
    history = trainer.fit(data, validation=data, epochs=60, batch_size=4, progress=False)
    assert history.val_accuracy[-1] == 1.0
    assert trainer.predict((IMAGE, VECTOR), batch_size=4).shape == (6, 3)
    with pytest.raises(fnn.ShapeError, match=r"got x \(6, 3, 8, 8\), \(5, 5\) and y \(6,\)"):
        trainer.step((IMAGE, VECTOR[:5]), labels)
