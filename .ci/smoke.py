"""What must work from an installed wheel with NumPy alone: imports, kernels, training, compiling, saving."""

import sys
import tempfile
from pathlib import Path

import numpy as np

import fastnn as fnn
from fastnn import layers as L

extras = {"numba", "sklearn", "matplotlib", "tqdm", "torch", "safetensors", "scipy"} & set(sys.modules)
assert not extras, f"import fastnn loads {extras}"
assert fnn.threads.config()["backend"] == "compiled", fnn.threads.config()
rng = np.random.default_rng(0)
x, y = rng.standard_normal((32, 3, 8, 8), np.float32), rng.integers(0, 4, 32)
model = L.Sequential(
    L.Conv2d(3, 8, 3, padding=1, bias=False, rng=0), L.BatchNorm2d(8), L.ReLU(), L.MaxPool2d(2), L.Flatten(),
    L.Dropout(0.2), L.Linear(128, 4, rng=1),
)  # fmt: skip
history = fnn.Trainer(model, optimizer=fnn.optim.Adam(lr=0.01), rng=0).fit((x, y), epochs=20, batch_size=16)
assert history.loss[-1] < 0.5 * history.loss[0], history
program = fnn.compile(model, x.shape)
assert np.abs(program(x) - model(x)).max() < 1e-4
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "net.npz"
    fnn.save_state(path, model.state())
    model.load_state(fnn.load_state(path))
    program.save(Path(folder) / "net.fnn")
    assert (fnn.load_program(Path(folder) / "net.fnn")(x) == program(x)).all()
fnn.show_config()
print("smoke test passed")
