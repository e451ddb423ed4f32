"""Layers: weights plus two calls. See base.py for the protocol; layers of one family share a file."""

from .activation import ELU, GELU, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .base import Layer
from .container import Concat, Flatten, Identity, Residual, Sequential
from .dropout import DropConnect, Dropout, StochasticDepth
from .function import Add, Constant, Join, Mul, Parameter, Reshape, Split
from .graph import Graph, Node
from .linear import Conv2d, Linear
from .norm import BatchNorm1d, BatchNorm2d
from .pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "ELU",
    "GELU",
    "Add",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Constant",
    "Conv2d",
    "DropConnect",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Graph",
    "Identity",
    "Join",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Mul",
    "Node",
    "Parameter",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Split",
    "StochasticDepth",
    "Tanh",
]
