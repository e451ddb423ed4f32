"""Where randomness comes from: ``rng=`` arguments and the counters under which Philox draws masks.

A mask is a function of (seed, step, layer, element) and of nothing else: not of the backend, the thread count, or what
was drawn before. `Stream` holds the first three; elements are counted by the kernel.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

__all__ = ["RNG", "Stream", "as_generator", "as_stream", "draw_seed"]


class Stream:
    """The source of masks for one forward pass: a seed, the step, and the number of the next layer that asks.

    Parameters
    ----------
    seed : int
        64 bits, the same for a whole training run.
    step : int
        Counts optimisation steps; 32 bits.
    """

    __slots__ = ("layer", "seed", "step")

    def __init__(self, seed: int, step: int = 0) -> None:
        self.seed = int(seed) & 0xFFFFFFFFFFFFFFFF
        self.step = step
        self.layer = 0

    def key(self) -> np.ndarray:
        """Return the key of the next layer that needs random numbers: uint64 ``[seed, layer << 32 | step]``."""
        key = np.array([self.seed, self.layer << 32 | (self.step & 0xFFFFFFFF)], np.uint64)
        self.layer += 1
        return key


RNG: TypeAlias = "int | np.integer | np.random.Generator | Stream | None"


def draw_seed(rng: int | np.integer | np.random.Generator) -> int:
    """Return a 64-bit seed: an integer as it is, or one draw from a Generator."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(0, 2**64, dtype=np.uint64))
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        if not 0 <= int(rng) < 2**64:
            raise ValueError(f"rng: a seed is a whole number from 0 to 2**64 - 1, got {rng}")
        return int(rng)
    raise TypeError(f"rng: expected a seed or a numpy.random.Generator, got {type(rng).__name__}")


def as_stream(rng: RNG) -> Stream | None:
    """Return ``rng`` as a Stream; None stays None."""
    return rng if rng is None or isinstance(rng, Stream) else Stream(draw_seed(rng))


def as_generator(rng: int | np.integer | np.random.Generator | None) -> np.random.Generator:
    """Return ``rng`` as a Generator; None gives one seeded by the operating system."""
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    return np.random.default_rng(draw_seed(rng))
