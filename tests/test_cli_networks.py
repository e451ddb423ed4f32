"""The commands on files: info, convert, predict and bench, as a person meets them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import run

import fastnn as fnn
from fastnn import cli, threads
from fastnn import layers as L
from fastnn.cli import bench, peers
from nets import NETS, build
from onnx_files import model, node, port, tensor

CHECKPOINTS = Path(__file__).parent / "data"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command that goes well prints."""
    assert cli.main([str(a) for a in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a command that fails."""
    assert cli.main([str(a) for a in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"fastnn {arguments[0]}: ")
    return err.removeprefix(f"fastnn {arguments[0]}: ").strip()


def colours() -> Any:
    """A classifier that tells by the colour: its three scores are four times the means of red, green and blue."""
    last = L.Linear(3, 3, bias=False)
    last.weight[...] = 4 * np.eye(3)
    return L.Sequential(L.GlobalAvgPool2d(), L.Flatten(), last)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "colours.fnn"
    fnn.compile(colours(), (1, 3, 8, 8)).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of a red, a green and a blue picture of other sizes than the network's."""
    image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    image.new("RGB", (20, 12), (255, 0, 0)).save(folder / "red.png")
    image.new("RGBA", (9, 30), (0, 255, 0, 255)).save(folder / "green.png")
    image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "more" / "blue.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


# ---- info ----


def test_info_of_a_program(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "info", network).splitlines()
    assert lines[0].startswith(f"{network}: a compiled network, float32, ")
    assert lines[1:3] == ["input   (1, 3, 8, 8)", "output  (1, 3)"]
    cells = [line.split() for line in lines[4:]]
    assert cells[0][-2:] == ["parameters", "multiply-adds"]
    assert [row[-2:] for row in cells if row[0] == "3"] == [["9", "9"]] and cells[-1] == ["all", "9", "9"]


@pytest.mark.parametrize("name", ["small.pth", "small.pt"])
def test_info_of_weights(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = fnn.load_state(CHECKPOINTS / name)
    out = printed(capsys, "info", CHECKPOINTS / name)
    assert all(any(line.split()[:1] == [key] for line in out.splitlines()) for key in state)
    assert out.splitlines()[-1].split() == ["all", f"{sum(a.size for a in state.values()):,}"]


def test_info_of_what_is_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "info", tmp_path / "none.fnn") == f"{tmp_path / 'none.fnn'}: no such file or folder"
    (tmp_path / "net.fnn").write_bytes(b"something else")
    assert refused(capsys, "info", tmp_path / "net.fnn").endswith("net.fnn: not a program of fastnn")
    (tmp_path / "net.txt").write_bytes(b"something else")
    assert "expected a network (.onnx, .fnn) or weights (.npz" in refused(capsys, "info", tmp_path / "net.txt")
    (tmp_path / "net.pth").write_bytes(b"something else")
    assert str(tmp_path / "net.pth") in refused(capsys, "info", tmp_path / "net.pth")


# ---- convert ----


def test_convert_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "small.npz"
    out = printed(capsys, "convert", CHECKPOINTS / "small.pth", "-o", target)
    assert f"{target}: " in out
    before, after = fnn.load_state(CHECKPOINTS / "small.pth"), fnn.load_state(target)
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array, strict=True)


def test_convert_says_what_it_cannot(tmp_path: Path, network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.fnn"
    said = refused(capsys, "convert", CHECKPOINTS / "small.pth", "-o", target)
    assert "this file holds weights, and not the network that they belong to" in said
    assert "is compiled already" in refused(capsys, "convert", network, "-o", target)
    assert "expected a path that ends in .fnn, .npz or .safetensors" in refused(
        capsys, "convert", network, "-o", "x.onnx"
    )
    assert "no such file" in refused(capsys, "convert", tmp_path / "none.onnx", "-o", target)
    nowhere = tmp_path / "nowhere"
    said = refused(capsys, "convert", CHECKPOINTS / "small.pth", "-o", nowhere / "out.npz")
    assert said == f"--output: there is no folder {nowhere}"
    assert not target.exists()


# ---- predict ----


def test_predict(network: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    plain = ("--mean", "0", "--std", "1", "--labels", labels)
    lines = printed(capsys, "predict", network, images, *plain, "--top", "2").splitlines()
    assert "colour 8 x 8" in lines[0] and "mean 0, std 1" in lines[0]
    rows = [line.split() for line in lines[4:]]
    best = 100 * np.exp(4) / (np.exp(4) + 2)
    names = [str(images / "green.png"), str(images / "more" / "blue.bmp"), str(images / "red.png")]
    assert [row[0] for row in rows[::2]] == names
    assert [row[1:] for row in rows[::2]] == [
        [i, colour, f"{best:.2f}", "%"] for i, colour in (("1", "green"), ("2", "blue"), ("0", "red"))
    ]
    assert all(row[-2] == f"{(100 - best) / 2:.2f}" for row in rows[1::2])

    printed(capsys, "predict", network, images / "red.png", *plain, "--output", tmp_path / "p.json")
    (found,) = json.loads((tmp_path / "p.json").read_text())
    assert found["image"] == names[2] and [top["label"] for top in found["top"]] == ["red", "green", "blue"]
    printed(capsys, "predict", network, images, *plain, "--output", tmp_path / "p.csv", "--batch", "2")
    with (tmp_path / "p.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 9 and [row["label"] for row in table if row["rank"] == "1"] == ["green", "blue", "red"]
    assert float(table[0]["probability"]) == pytest.approx(best / 100, rel=1e-5)


def test_images_are_prepared_as_torchvision_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resize to a shorter side of 256, cut out 224 in the middle, scale, normalise: written out for one image."""
    image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    rng = np.random.default_rng(0)
    picture = image.fromarray(rng.integers(0, 256, (300, 401, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    from fastnn.cli.predict import _IMAGENET, Preparation

    mean, std = (np.array(numbers, np.float32) for numbers in _IMAGENET)
    found = Preparation(3, 224, 224, 256, mean, std, 1.0)(tmp_path / "a.png")
    resized = picture.resize((int(256 * 401 / 300), 256), image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((256 - 224) / 2)
    part = np.asarray(resized)[top : top + 224, left : left + 224] / 255.0
    np.testing.assert_allclose(found.transpose(1, 2, 0), (part - mean) / std, atol=1e-5)


def test_images_of_the_networks_size_stay_as_they_are(network: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    from fastnn.cli.predict import Preparation

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    raw = Preparation(1, 8, 8, 9, np.zeros(1, np.float32), np.ones(1, np.float32), 255.0)
    np.testing.assert_array_equal(raw(tmp_path / "a.png")[0], pixels)


@pytest.mark.parametrize("end", [L.Softmax(), L.LogSoftmax(), L.Identity()])
def test_a_softmax_of_the_networks_own_is_not_repeated(
    end: Any, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fnn.compile(L.Sequential(colours(), end), (1, 3, 8, 8)).save(tmp_path / "net.fnn")
    plain = ("--mean", "0", "--std", "1", "--top", "1")
    last = printed(capsys, "predict", tmp_path / "net.fnn", images / "red.png", *plain).splitlines()[-1]
    assert last.split()[1:] == ["0", f"{100 * np.exp(4) / (np.exp(4) + 2):.2f}", "%"]


def test_a_damaged_image_does_not_stop_the_others(
    network: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    assert cli.main(["predict", str(network), str(images)]) == 1
    out, err = capsys.readouterr()
    assert out.count(".png") == 2 and out.count(".bmp") == 1
    assert err.splitlines()[0].startswith("fastnn predict: ") and str(images / "broken.png") in err.splitlines()[0]
    assert err.splitlines()[1:] == ["fastnn predict: 1 of 4 images could not be read"]


def test_predict_says_what_it_cannot(
    network: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str | Path) -> str:
        return refused(capsys, "predict", *arguments)

    assert "no such file" in said(tmp_path / "none.fnn", images)
    assert "no such file" in said(network, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "there is no image in this folder" in said(network, tmp_path / "empty")
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    assert "2 lines, and the network tells 3 classes" in said(network, images, "--labels", tmp_path / "labels.txt")
    assert "expected 3 numbers, as the network takes 3 channels" in said(network, images, "--mean", "1,2")
    assert "--std: expected numbers above 0" in said(network, images, "--std", "0")
    assert "--resize: expected at least" in said(network, images, "--resize", "7")
    assert "expected a path that ends in .csv or .json" in said(network, images, "--output", "x.txt")
    assert "there is no folder" in said(network, images, "--output", tmp_path / "nowhere" / "x.csv")
    fnn.compile(L.Conv2d(3, 4, 1, rng=0), (1, 3, 8, 8)).save(tmp_path / "net.fnn")
    assert "expected a classifier, which gives (N, classes); it gives (1, 4, 8, 8)" in said(
        tmp_path / "net.fnn", images
    )
    fnn.compile(L.Linear(3, 4, rng=0), (1, 3)).save(tmp_path / "net.fnn")
    assert "expected a network that takes images (N, C, H, W); it takes (1, 3)" in said(tmp_path / "net.fnn", images)
    fnn.compile(L.Conv2d(4, 4, 8, rng=0), (1, 4, 8, 8)).save(tmp_path / "net.fnn")
    assert "1 or 3 channels; it takes 4" in said(tmp_path / "net.fnn", images)


def test_predict_names_the_extra(network: Path, images: Path) -> None:
    result = run("predict", str(network), str(images), blocked=("PIL", "PIL.Image"))
    said = "fastnn predict: reading images needs pillow; install it with: pip install 'fastnn[train]'\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", said)


def test_who_reads_may_stop(network: Path) -> None:
    """A pipe that is closed early is no error worth a line."""
    import subprocess
    import sys

    command = [sys.executable, "-P", "-m", "fastnn", "info", str(network)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# ---- ONNX ----


def onnx_file(path: Path, shape: tuple[int | str, ...] = ("n", 3, 8, 8), op: str = "Relu", domain: str = "") -> Path:
    """The classifier by colours behind a convolution that changes nothing, as others would export it."""
    nodes = [
        node("Conv", "x conv.weight", "a", name="conv", kernel_shape=[1, 1]),
        node(op, "a", "b", name="act", domain=domain),
        node("GlobalAveragePool", "b", "c"),
        node("Flatten", "c", "d"),
        node("Gemm", "d fc.weight", "y", name="fc", transB=1),
    ]
    weights = {
        "conv.weight": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "fc.weight": 4 * np.eye(3, dtype=np.float32),
    }
    tensors = [tensor(name, array) for name, array in weights.items()]
    path.write_bytes(model([*nodes], [port("x", np.float32, shape)], [port("y", np.float32, ("n", 3))], tensors))
    return path


def test_info_of_an_onnx_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_file(tmp_path / "net.onnx")
    out = printed(capsys, "info", path)
    lines = out.splitlines()
    assert lines[0].startswith(f"{path}: an ONNX network, opset ai.onnx ")
    assert lines[1:3] == ["input   x float32 (n, 3, 8, 8)", "output  y float32 (n, 3)"]
    assert "5 nodes: 1 Conv, 1 Relu, 1 GlobalAveragePool, 1 Flatten, 1 Gemm" in out
    assert "as fastnn runs it, for (1, 3, 8, 8):" in out and "Conv2d 3->3 1x1" in out
    assert lines[-1].split()[0] == "all" and lines[-1].split()[-1] == str(3 * 3 * 64 + 9)


def test_info_of_an_onnx_network_that_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(onnx_file(tmp_path / "net.onnx", op="Frobnicate", domain="com.acme"))]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "fastnn cannot run it: it does not have com.acme.Frobnicate" and err == ""
    wrong = model([node("MatMul", "x w", "y")], [port("x", np.float32, (1, 3))], [port("y")], [tensor("w", np.eye(4))])
    (tmp_path / "wrong.onnx").write_bytes(wrong)
    assert cli.main(["info", str(tmp_path / "wrong.onnx")]) == 1
    out, err = capsys.readouterr()
    assert "1 MatMul" in out and err.startswith("fastnn info: fastnn cannot run it: ")
    open_sizes = onnx_file(tmp_path / "open.onnx", ("n", 3, "height", None))
    assert cli.main(["info", str(open_sizes)]) == 0
    out, err = capsys.readouterr()
    assert "input   x float32 (n, 3, height, ?)" in out
    assert "input 'x' has the shape (n, 3, height, ?); say which by --input, such as 1x3x224x224" in err
    assert "(2, 3, 9, 7)" in printed(capsys, "info", open_sizes, "--input", "2x3x9x7")
    (tmp_path / "cut.onnx").write_bytes(open_sizes.read_bytes()[:-20])
    assert "not a readable ONNX file" in refused(capsys, "info", tmp_path / "cut.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert str(tmp_path / "empty.onnx") in refused(capsys, "info", tmp_path / "empty.onnx")


def test_convert_an_onnx_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = onnx_file(tmp_path / "net.onnx"), tmp_path / "net.fnn"
    out = printed(capsys, "convert", source, "-o", target, "--batch", "2")
    assert "18 parameters, 1,170 multiply-adds for (2, 3, 8, 8)" in out and f"{target}: " in out
    program = fnn.load_program(target)
    assert program.input_shape == (2, 3, 8, 8)
    x = np.random.default_rng(0).random((5, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(program(x), fnn.compile(fnn.onnx.load(source), (2, 3, 8, 8))(x))
    printed(capsys, "convert", source, "-o", tmp_path / "net.npz")
    np.testing.assert_array_equal(fnn.load_state(tmp_path / "net.npz")["fc.weight"], 4 * np.eye(3))
    open_sizes = onnx_file(tmp_path / "open.onnx", ("n", 3, "h", "w"))
    assert "say which by --input" in refused(capsys, "convert", open_sizes, "-o", tmp_path / "open.fnn")
    assert "--input gives 2 shapes" in refused(
        capsys, "convert", open_sizes, "-o", tmp_path / "open.fnn", "--input", "1x3x8x8", "--input", "1x3x8x8"
    )
    printed(capsys, "convert", open_sizes, "-o", tmp_path / "open.fnn", "--input", "1x3x8x8")


def test_predict_and_bench_an_onnx_network(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_file(tmp_path / "net.onnx")
    plain = ("--mean", "0", "--std", "1")
    printed(capsys, "convert", path, "-o", tmp_path / "net.fnn")
    tables = [printed(capsys, "predict", network, images, *plain) for network in (path, tmp_path / "net.fnn")]
    assert tables[0] == tables[1]
    out = printed(capsys, "bench", path, "--seconds", "0.01", "--batch", "3")
    assert "net.onnx 3x3x8x8" in out


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_other_engines_read_onnx_networks(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    path = onnx_file(tmp_path / "net.onnx")
    xs = [np.random.default_rng(0).random((2, 3, 8, 8), np.float32)]
    (call,) = getattr(peers, package)(path, xs).values()
    np.testing.assert_allclose(call(), fnn.onnx.load(path)(xs[0]), rtol=1e-5)


# ---- bench ----


def test_bench(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = "conv 4 6 3 s2 g2 @9x8 relu"
    before = threads.get_num_threads()
    out = printed(capsys, "bench", layer, "linear 5 7", network, "--seconds", "0.01", "--threads", "1", "--profile")
    assert threads.get_num_threads() == before
    lines = out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[:1] == ["threads"])
    assert lines[header].split() == ["threads", "fastnn,", "ms", "GFLOP/s", "roofline"]
    rows = [" ".join(line.split()) for line in lines[header + 2 : header + 5]]
    names = [f"{layer}, batch 1", "linear 5 7, batch 1", "colours.fnn 1x3x8x8"]
    assert all(row.startswith(f"{name} 1 ") and row.endswith("%") for row, name in zip(rows, names, strict=True))
    assert "Conv2d 4->6 3x3, stride 2, groups 2 + ReLU" in out and "a call takes" in out


def test_bench_takes_what_other_engines_compute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contestant with a wrong result is not timed, one that fails is named, and the others go on."""
    made = bench._layer("linear 5 7 relu", 3)
    assert made is not None and made.xs[0].shape == (3, 5)
    right = made.program(made.xs[0])
    monkeypatch.setattr(peers, "installed", lambda name: name in ("torch", "onnxruntime"))
    monkeypatch.setattr(peers, "onnx_layer", lambda *given, **options: b"model")
    monkeypatch.setattr(peers, "onnxruntime", lambda model, xs: {"onnxruntime": lambda: right[: len(xs[0])]})

    def broken(module: Any, x: Any) -> Any:
        raise RuntimeError("no such thing\nas torch")

    monkeypatch.setattr(bench, "_torch_module", lambda layer, relu: None)
    monkeypatch.setattr(peers, "torch", broken)
    arguments = ["bench", "linear 5 7 relu", "--batch", "3", "--peers", "--seconds", "0.01"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == "fastnn bench: torch does not run linear 5 7 relu, batch 3: no such thing\n"
    header = next(line for line in out.splitlines() if "onnxruntime, ms" in line)
    assert header.split() == [
        *("threads", "fastnn,", "ms", "torch,", "ms", "onnxruntime,", "ms", "ratio", "GFLOP/s", "roofline")
    ]
    monkeypatch.setattr(peers, "onnxruntime", lambda model, xs: {"onnxruntime": lambda: right + 1})
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "onnxruntime is off by" in err.splitlines()[-1] and "not timed" in err
    assert next(line for line in out.splitlines() if "linear 5 7" in line).count("±") == 1


@pytest.mark.parametrize("package", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("layer", ["conv 16 8 3 s2 p0 d2 g4 @12x9", "linear 12 9 relu"])
def test_other_engines_compute_the_same(package: str, layer: str) -> None:
    """Each peer's form of a layer is that layer."""
    pytest.importorskip(package)
    case = bench._layer(layer, 2)
    assert case is not None
    if package not in case.others:
        pytest.skip("the package onnx, which describes layers to it, is not installed")
    calls = case.others[package]()
    assert calls and bench._agreeing(case, calls).keys() == calls.keys()


@pytest.mark.parametrize("name", NETS)
def test_networks_of_torch_compute_the_same(name: str) -> None:
    """A program as a module of torch, on a batch of another size; what has no twin says so."""
    torch = pytest.importorskip("torch")
    from fastnn.cli.twins import torch_twin

    net, x, _ = build(name)
    program = fnn.compile(net, x.shape)
    missing = {"normalised", "sequence", "generator", "activations", "signal", "preprocessed"} & {name}
    if missing:
        with pytest.raises(NotImplementedError, match="has no twin in torch here"):
            torch_twin(program._graph)
        return
    with torch.inference_mode():
        found = torch_twin(program._graph).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, program(x), rtol=0, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["conf 3 4 5 @6"], "expected a network (.onnx, .fnn) or a layer such as 'conv 64 64 3 @56 relu'"),
        (["conv 99999999 3 3 @3"], "the largest size is 65536"),
        (["conv 3 4 3 g2 @8"], "groups must divide the channels"),
        (["conv 3 4 9 p0 @8"], "kernel"),
        (["none.onnx"], "none.onnx: no such file"),
    ],
)
def test_bench_says_what_it_cannot(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "bench", *arguments)


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--threads", "1,x"], ["--input", "3,,4"], ["--batch", "0"]])
def test_bench_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", *arguments])
    assert "expected" in capsys.readouterr().err


def test_info_reads_no_pipe(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    os.mkfifo(path)
    done = run("info", str(path))
    assert done.returncode == 1
    assert done.stderr.strip() == f"fastnn info: {path}: not a regular file"


# ---- bad weights, bad files, bad names ----


def test_predict_says_that_a_network_gives_nan(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer of nan % is none."""
    net = colours()
    net.params["2.weight"][0, 0] = np.inf  # inf * 0 for all but red, inf for red
    fnn.compile(net, (1, 3, 8, 8)).save(tmp_path / "nan.fnn")
    plain = ("--mean", "0", "--std", "1")
    output = tmp_path / "p.csv"
    assert cli.main(["predict", *map(str, (tmp_path / "nan.fnn", images)), *plain, "--output", str(output)]) == 1
    out, err = capsys.readouterr()
    assert "nan" not in out and not output.exists()
    assert err.startswith(f"fastnn predict: {tmp_path / 'nan.fnn'}: gives NaN or infinity for 3 of 3 images")
    assert err.count("\n") == 1


@pytest.mark.parametrize("what", ["image", "labels", "network"])
def test_predict_reads_no_pipe(what: str, network: Path, images: Path, tmp_path: Path) -> None:
    path = tmp_path / ("net.onnx" if what == "network" else "pipe")
    os.mkfifo(path)
    arguments = {
        "image": [network, path],
        "labels": [network, images, "--labels", path],
        "network": [path, images],
    }[what]
    done = run("predict", *map(str, arguments))
    assert done.returncode == 1
    assert done.stderr.strip() == f"fastnn predict: {path}: not a regular file"


def test_labels_that_are_not_utf8_are_named(
    network: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("rouge\nvert foncé\nbleu\n".encode("latin-1"))
    assert f"{path}: line 2 is not text in UTF-8" in refused(capsys, "predict", network, images, "--labels", path)


def test_a_network_that_holds_on_to_one_image(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Reshape to (1, 192) in the file: three images go in one after the other."""
    weights = {"w": (np.arange(3)[:, None] == np.arange(192) // 64).astype(np.float32) / 16, "s": np.array([1, 192])}
    nodes = [node("Reshape", "x s", "flat"), node("Gemm", "flat w", "y", transB=1)]
    tensors = [tensor(name, array) for name, array in weights.items()]
    data = model(nodes, [port("x", np.float32, (1, 3, 8, 8))], [port("y", np.float32, (1, 3))], tensors)
    (tmp_path / "one.onnx").write_bytes(data)
    onnx_file(tmp_path / "net.onnx")
    plain = ("--mean", "0", "--std", "1", "--top", "1")
    rows = [
        [line.split()[:2] for line in printed(capsys, "predict", tmp_path / name, images, *plain).splitlines()[4:]]
        for name in ("one.onnx", "net.onnx")
    ]
    assert rows[0] == rows[1] and [row[1] for row in rows[0]] == ["1", "2", "0"]


def test_bench_of_whole_numbers_and_of_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = model(
        [node("Gather", "table x", "y")], [port("x", np.int64, (2, 5))], [port("y")],
        [tensor("table", np.ones((1, 4), np.float32))],
    )  # fmt: skip
    (tmp_path / "words.onnx").write_bytes(words)
    assert cli.main(["bench", str(tmp_path / "words.onnx"), "--seconds", "0.01"]) == 0
    assert "words.onnx 2x5" in capsys.readouterr().out
    net = colours()
    net.params["2.weight"][...] = np.nan
    fnn.compile(net, (1, 3, 8, 8)).save(tmp_path / "nan.fnn")
    assert cli.main(["bench", str(tmp_path / "nan.fnn"), "--seconds", "0.01"]) == 0
    out, err = capsys.readouterr()
    assert "nan.fnn 1x3x8x8" in out
    assert "gives NaN or infinity for normally distributed inputs" in err and err.count("\n") == 1


def test_results_agree_where_nan_and_infinity_do() -> None:
    want = np.array([1.0, np.nan, np.inf, -2.0])
    assert bench._difference(want.copy(), want) == 0
    assert bench._difference(np.array([1.0, np.nan, np.inf, -2.5]), want) == 0.25
    for wrong in ([1, 0, np.inf, -2], [1, np.nan, -np.inf, -2], [np.nan, np.nan, np.inf, -2], [1, np.nan, np.inf]):
        assert bench._difference(np.array(wrong, float), want) == np.inf


def test_names_from_files_do_not_reach_the_terminal_as_they_are(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No control character, and no line of its own, wherever a name in a file is printed."""
    evil = "a\x1b[2J\x07\r\nfastnn: all is well\u202e"

    def harmless(*arguments: str | Path) -> str:
        cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        text = out + err
        assert not {c for c in text if not c.isprintable()} - {"\n"}, text
        assert not any(line.startswith("fastnn: all is well") for line in text.splitlines()), text
        return text

    fnn.save_state(tmp_path / "w.npz", {evil: np.ones(3)})
    assert r"a\x1b[2J\x07\r\nfastnn" in harmless("info", tmp_path / "w.npz")
    net = L.Sequential({"flat": L.Flatten(), evil: L.Linear(192, 3, rng=0)})
    fnn.compile(net, (1, 3, 8, 8)).save(tmp_path / "net.fnn")
    assert r"\x1b" in harmless("info", tmp_path / "net.fnn")
    (tmp_path / "labels.txt").write_text("a\x1b[31m\nb\u202e\nc\n")
    assert r"\x1b[31m" in harmless("predict", tmp_path / "net.fnn", images, "--labels", tmp_path / "labels.txt")
    for op, name in (("Relu", evil), (evil, "x")):
        data = model([node(op, name, evil + "y", name=evil)], [port(name, np.float32, (1, evil))], [port(evil + "y")])
        (tmp_path / "net.onnx").write_bytes(data)
        assert r"\x1b" in harmless("info", tmp_path / "net.onnx")
        assert r"\x1b" in harmless("convert", tmp_path / "net.onnx", "-o", tmp_path / "out.fnn")
    strange = tmp_path / os.fsdecode(b"not\xffutf8\x1b.onnx")
    strange.write_bytes(b"nothing")
    assert r"\udcff" in harmless("info", strange)


def test_predict_with_a_network_on_bytes(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which takes pixels as they are in the file, without being told."""
    nodes = [node("Cast", "x", "f", to=1), node("GlobalAveragePool", "f", "g"), node("Flatten", "g", "y")]
    data = model(nodes, [port("x", np.uint8, (1, 3, 8, 8))], [port("y", np.float32, (1, 3))])
    (tmp_path / "bytes.onnx").write_bytes(data)
    assert cli.main(["predict", str(tmp_path / "bytes.onnx"), str(images), "--top", "1"]) == 0
    out, err = capsys.readouterr()
    assert "white 255, mean 0, std 1" in out and "computed in NumPy" in err
    assert [line.split()[1:] for line in out.splitlines()[4:]] == [[c, "100.00", "%"] for c in "120"]


def test_a_network_without_input_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = model([node("Relu", "w", "y")], [], [port("y")], [tensor("w", np.ones(3, np.float32))])
    (tmp_path / "net.onnx").write_bytes(data)
    assert "the network has no input: what it gives is constant" in refused(
        capsys, "convert", tmp_path / "net.onnx", "-o", tmp_path / "net.fnn"
    )


def test_what_a_network_was_trained_on_is_asked_where_no_file_tells(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network on bytes takes numbers as any other; the page says how to say so, until it is said."""
    nodes = [node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "y")]
    data = model(nodes, [port("x", np.float32, (1, 3, 8, 8))], [port("y", np.float32, (1, 3))])
    (tmp_path / "net.onnx").write_bytes(data)
    for options, asks in (([], True), (["--white", "255"], False), (["--mean", "0"], False)):
        assert cli.main(["predict", str(tmp_path / "net.onnx"), str(images), "--top", "1", *options]) == 0
        out = capsys.readouterr().out
        assert ("--white 255" in out) == asks
        assert "colour 8 x 8 (others resized to a shorter side of 9, and cut)" in out


def test_one_row_is_printed_once_and_its_profile_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "linear 8 4", "--seconds", "0.05", "--profile"]) == 0
    out = capsys.readouterr().out
    assert sum(line.startswith("linear 8 4, batch 1 ") for line in out.splitlines()) == 1
    assert "a call takes" in out and "what it takes to call them from Python" in out and "measured after it" in out
    assert cli.main(["bench", "linear 8 4", "linear 4 8", "--seconds", "0.05"]) == 0
    assert sum(line.startswith("linear 8 4, batch 1 ") for line in capsys.readouterr().out.splitlines()) == 2


def test_where_no_other_engine_is_installed_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "installed", lambda name: False)
    assert cli.main(["bench", "linear 8 4", "--peers", "--seconds", "0.05"]) == 0
    out, err = capsys.readouterr()
    assert "none of torch, onnxruntime, openvino is installed" in err and "ratio" not in out
