"""Make the checkpoints of this folder. They are committed; this tells what is in them, and needs PyTorch.

expected.npz holds what `fastnn.load_state` must give for the tensors of all.pt and all.pth, by PyTorch's own account.
"""

from __future__ import annotations

import argparse
import collections
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
DTYPES = ("float16", "float32", "float64", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64")


def everything() -> dict[str, torch.Tensor]:
    """Every dtype, and every way in which a tensor lies in its storage."""
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    tensors = {f"dtype.{name}": (torch.randn(2, 3) * 3).to(getattr(torch, name)) for name in DTYPES}
    return {
        **tensors,
        "unsigned": torch.tensor([1, 65535], dtype=torch.uint16),
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "tied": base,
        "channels_last": torch.randn(1, 2, 2, 3).to(memory_format=torch.channels_last),
        "expanded": torch.tensor([2.5]).expand(3, 2),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "empty_slice": torch.zeros(1, 4, 0)[1::2],  # begins beyond the end of its storage
        "bfloat16_scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "parameter": nn.Parameter(torch.randn(3)),
        "infinite": torch.tensor([float("inf"), float("-inf"), -0.0]),
    }


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        collections.OrderedDict(conv=nn.Conv2d(2, 3, 3), bn=nn.BatchNorm2d(3), fc=nn.Linear(3, 2, bias=False))
    )


def training() -> dict[str, object]:
    """What a training script saves."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "epoch": 3,
        "best": np.float64(91.7),
        "args": argparse.Namespace(lr=0.1, milestones=[100, 150], layers=(2, 2), root=Path("data")),
        "history": {"loss": np.arange(3.0), "seen": {1, 2}},
        "state_dict": nn.DataParallel(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state()[:8].clone(),
    }


def big_endian(content: bytes) -> bytes:
    """A zip checkpoint of float32 as a big-endian machine writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if "/data/" in info.filename:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            new.writestr(zipfile.ZipInfo(info.filename), b"big" if info.filename.endswith("byteorder") else data)
    return out.getvalue()


def save(value: object, name: str) -> None:
    torch.save(value, HERE / name, _use_new_zipfile_serialization=name.endswith(".pt"))


def main() -> None:
    tensors = everything()
    save(tensors, "all.pt")
    save({k: v for k, v in tensors.items() if k != "unsigned"}, "all.pth")
    expected = {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for k, v in tensors.items()}
    np.savez(HERE / "expected.npz", **expected)

    model = network()
    np.savez(HERE / "training.npz", **{k: v.numpy() for k, v in training()["state_dict"].items()})
    for suffix in (".pt", ".pth"):
        save(training(), f"training{suffix}")
        small = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([True, False]), "n": torch.tensor(3)}
        save(small, f"small{suffix}")
    save(model, "model.pt")  # the object, not its state
    content = io.BytesIO()
    torch.save({"w": torch.arange(3.0)}, content)
    (HERE / "big_endian.pt").write_bytes(big_endian(content.getvalue()))
    torch.serialization.set_crc32_options(False)
    save({"w": torch.arange(3.0)}, "unsummed.pt")
    torch.serialization.set_crc32_options(True)


if __name__ == "__main__":
    main()
