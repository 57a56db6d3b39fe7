"""The one loader of weights: reads a file or folder, finds the tensors of a network, loads them."""

from abatis.nets.weights.contents import Contents, read_contents, refuse_pickle
from abatis.nets.weights.loading import DESIGN, Loaded, load_into, read_design, start_from

__all__ = [
    "DESIGN",
    "Contents",
    "Loaded",
    "load_into",
    "read_contents",
    "read_design",
    "refuse_pickle",
    "start_from",
]
