"""``fastnn predict``: what a trained classifier sees in images, prepared as torchvision does for evaluation."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import need
from .common import (
    Commands,
    Progress,
    count,
    exists,
    file,
    input_shapes,
    open_network,
    output,
    output_shapes,
    say,
    shape,
    warn,
)

__all__ = ["add"]

#: of the images that most published networks were trained on
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict",
        help="classify images with a trained network",
        description="Classify images with a trained network. Each is prepared as torchvision does for evaluation: "
        "its shorter side is resized, the centre cut out, values scaled to 0..1, the mean subtracted, and the result "
        "divided by the standard deviation. An image that has the network's size already is not resized or cut. "
        "Networks that were trained on the bytes as they are in files, 0..255, need --white 255: no file tells.",
    )
    parser.add_argument("network", type=Path, help=".fnn or .onnx")
    parser.add_argument("images", type=Path, nargs="+", help="files, or folders of them")
    parser.add_argument("--labels", type=Path, metavar="TXT", help="the names of the classes, one a line")
    parser.add_argument("--top", type=count, default=5, metavar="N", help="classes to show (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the predictions to a .csv or .json instead of printing them"
    )
    parser.add_argument("--batch", type=count, default=32, metavar="N", help="images at a time (default: %(default)s)")
    parser.add_argument("--input", type=shape, metavar="SHAPE", help="as of 'fastnn convert', for an ONNX network")
    prepared = parser.add_argument_group("how images are prepared")
    prepared.add_argument(
        "--resize", type=count, metavar="N",
        help="the shorter side before the centre is cut out (default: the network's size / 0.875, 256 for 224)",
    )  # fmt: skip
    prepared.add_argument(
        "--mean", type=_numbers, metavar="M[,M,M]",
        help="of each channel, where white is 1 (default: ImageNet's 0.485,0.456,0.406 for colours, else 0)",
    )  # fmt: skip
    prepared.add_argument(
        "--std", type=_numbers, metavar="S[,S,S]",
        help="of each channel, where white is 1 (default: ImageNet's 0.229,0.224,0.225 for colours, else 1)",
    )  # fmt: skip
    prepared.add_argument(
        "--white", type=_positive, metavar="X",
        help="what white is: 255 for networks on raw bytes, and mean and std are meant for that (default: 255 where "
        "the network takes whole numbers, else 1)",
    )  # fmt: skip
    parser.set_defaults(run=_predict)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(np.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"expected numbers with commas between, got {text!r}")
    return numbers


def _positive(text: str) -> float:
    (number,) = _numbers(text) if "," not in text else (0.0,)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


class Preparation(NamedTuple):
    """What becomes of an image: (channels, height, width) of float32."""

    channels: int
    height: int
    width: int
    resize: int
    mean: np.ndarray
    std: np.ndarray
    white: float

    def __str__(self) -> str:
        mean, std = (",".join(f"{x:g}" for x in numbers.ravel()) for numbers in (self.mean, self.std))
        kind = {1: "grey", 3: "colour"}[self.channels]
        return (
            f"{kind} {self.width} x {self.height} (others resized to a shorter side of {self.resize}, and cut), "
            f"white {self.white:g}, mean {mean}, std {std}"
        )

    def __call__(self, path: Path) -> np.ndarray:
        """Return the image in a file; raise OSError where it cannot be read."""
        from PIL import Image, ImageOps

        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB" if self.channels == 3 else "L")
        if image.size != (self.width, self.height):
            # Both sides cover the part that is cut out; for a square that is torchvision's rule.
            goal = self.resize / min(self.width, self.height)
            scale = max(goal * self.width / image.width, goal * self.height / image.height)
            size = max(self.width, int(scale * image.width)), max(self.height, int(scale * image.height))
            image = image.resize(size, Image.Resampling.BILINEAR)
            left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
            image = image.crop((left, top, left + self.width, top + self.height))
        pixels = np.asarray(image, np.float32).reshape(self.height, self.width, self.channels)
        prepared: np.ndarray = (pixels * np.float32(self.white / 255) - self.mean) / self.std
        return prepared.transpose(2, 0, 1)


def _preparation(options: argparse.Namespace, program: Any) -> Preparation:
    if len(input_shapes(program)) != 1 or len(input_shapes(program)[0]) != 4:
        shapes = ", ".join(map(str, input_shapes(program)))
        raise ValueError(f"{options.network}: expected a network that takes images (N, C, H, W); it takes {shapes}")
    _, c, h, w = input_shapes(program)[0]
    if c not in (1, 3):
        raise ValueError(f"{options.network}: expected a network that takes 1 or 3 channels; it takes {c}")
    white = options.white or (1.0 if program.input_dtypes()[0].kind == "f" else 255.0)
    usual = _IMAGENET if c == 3 and white == 1 else ((0.0,), (1.0,))
    mean, std = options.mean or usual[0], options.std or usual[1]
    for name, numbers in (("--mean", mean), ("--std", std)):
        if len(numbers) not in (1, c):
            raise ValueError(
                f"{name}: expected {c} numbers, as the network takes {c} channels, or 1; got {len(numbers)}"
            )
    if min(std) <= 0:
        raise ValueError(f"--std: expected numbers above 0, got {min(std):g}")
    resize = options.resize or round(min(h, w) / 0.875)
    if resize < min(h, w):
        raise ValueError(f"--resize: expected at least the network's size, {min(h, w)}, got {resize}")
    return Preparation(c, h, w, resize, np.array(mean, np.float32), np.array(std, np.float32), white)


def _files(given: Iterable[Path]) -> list[Path]:
    """The files that are named, and all images in folders that are."""
    from PIL import Image

    suffixes = set(Image.registered_extensions())
    found = []
    for path in given:
        if exists(path).is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not inside:
                raise ValueError(f"{path}: there is no image in this folder")
            found += inside
        else:
            found.append(file(path))
    return found


def _labels(path: Path | None, classes: int) -> list[str] | None:
    if path is None:
        return None
    data = file(path).read_bytes()
    try:
        labels = data.decode("utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line} is not text in UTF-8; write the file anew in that encoding") from None
    if len(labels) != classes:
        raise ValueError(f"{path}: {len(labels)} lines, and the network tells {classes} classes")
    return [label.strip() for label in labels]


def _predict(options: argparse.Namespace) -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise need("pillow", "train", "reading images") from None
    if options.output is not None:
        output(options.output, ".csv", ".json")
    files = _files(options.images)
    program = open_network("predict", exists(options.network), options.input and [options.input])
    prepare = _preparation(options, program)
    (scores_shape, *others) = output_shapes(program)
    classes = int(np.prod(scores_shape[1:]))
    if others or len(scores_shape) < 2 or scores_shape[1] != classes:
        shapes = ", ".join(map(str, output_shapes(program)))
        raise ValueError(f"{options.network}: expected a classifier, which gives (N, classes); it gives {shapes}")
    labels = _labels(options.labels, classes)
    say(f"images: {prepare}")
    if options.white is None and options.mean is options.std is None and program.input_dtypes()[0].kind == "f":
        say("(if it was trained on other values: --white 255 for bytes as they are in files, --mean, --std)")

    results: list[tuple[Path, list[tuple[int, float]]]] = []
    unread = 0
    first = None  # of those that the network makes nothing of
    network = _Classifier(program)
    with Progress(len(files), "images") as progress:
        for paths, batch in _batches(files, prepare, options.batch):
            progress.step(len(paths))
            unread += paths.count(None)
            if len(batch):
                probabilities = network(batch)
                best = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top]
                good = [path for path in paths if path is not None]
                for path, row, order in zip(good, probabilities, best, strict=True):
                    if np.isnan(row).any():
                        first = first or path
                        continue
                    results.append((path, [(int(i), float(row[i])) for i in order]))
    if options.output is not None and results:
        _write(options.output, results, labels)
        say(f"{options.output}: {len(results)} images")
    elif results:
        say("", _table(results, labels))
    if unread:
        raise ValueError(f"{unread} of {len(files)} images could not be read")
    if len(results) < len(files):
        raise ValueError(
            f"{options.network}: gives NaN or infinity for {len(files) - len(results)} of {len(files)} images, first "
            f"for {first}; its weights, or --mean, --std and --white, are not what it was trained with"
        )


class _Classifier:
    """The network's scores as probabilities, which they are already where it ends in a softmax."""

    def __init__(self, program: Any) -> None:
        self._program = program
        self._end = program.steps()[-1].layer.split()[0]
        self._single = False

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        from .. import functional as F

        scores = self._scores(batch)
        end = self._end
        found: np.ndarray = scores if end == "Softmax" else F.exp(scores) if end == "LogSoftmax" else F.softmax(scores)
        return found

    def _scores(self, batch: np.ndarray) -> np.ndarray:
        """One row for each image; image by image where the file holds on to a batch of one, in a Reshape or so."""
        if not self._single:
            try:
                scores: np.ndarray = self._program(batch)
                if scores.shape[0] == len(batch):
                    return scores.reshape(len(batch), -1)
                raise ValueError(f"the network gives {scores.shape} for a batch of {len(batch)}")
            except ValueError:
                if len(batch) == 1 or input_shapes(self._program)[0][0] != 1:
                    raise
            self._single = True
        return np.concatenate([self._program(batch[i : i + 1]).reshape(1, -1) for i in range(len(batch))])


def _batches(files: list[Path], prepare: Preparation, size: int) -> Iterator[tuple[list[Path | None], np.ndarray]]:
    """Images in batches, with their paths; None for one that could not be read, which is said."""
    for begin in range(0, len(files), size):
        paths: list[Path | None] = []
        images = []
        for path in files[begin : begin + size]:
            try:
                images.append(prepare(path))
                paths.append(path)
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
                warn("predict", str(error) if str(path) in str(error) else f"{path}: {error}")
                paths.append(None)
        yield paths, np.stack(images) if images else np.empty(0, np.float32)


def _table(results: list[tuple[Path, list[tuple[int, float]]]], labels: list[str] | None) -> str:
    from ..compiler.report import table

    rows = [("image", "class", "probability")]
    for path, best in results:
        for rank, (i, p) in enumerate(best):
            name = f"{i} {labels[i]}" if labels else str(i)
            rows.append((str(path) if not rank else "", name, f"{100 * p:.2f} %"))
    return table(rows, right=(2,))


def _write(path: Path, results: list[tuple[Path, list[tuple[int, float]]]], labels: list[str] | None) -> None:
    from ..io.atomic import replacing

    def named(i: int) -> str:
        return labels[i] if labels else ""

    if path.suffix.lower() == ".json":
        content = [
            {"image": str(p), "top": [{"class": i, "label": named(i), "probability": x} for i, x in best]}
            for p, best in results
        ]
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["image", "rank", "class", "label", "probability"])
        for p, best in results:
            writer.writerows([str(p), rank, i, named(i), f"{x:.6g}"] for rank, (i, x) in enumerate(best, 1))
        text = buffer.getvalue()
    with replacing(path) as file:
        file.write(text.encode())
