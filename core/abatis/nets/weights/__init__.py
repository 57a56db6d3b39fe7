"""The one loader of weights: reads a file or folder, finds the tensors of a network, loads them."""

from abatis.nets.weights.contents import Contents, read_contents, refuse_pickle
from abatis.nets.weights.loading import Loaded, load_into, start_from

__all__ = ["Contents", "Loaded", "load_into", "read_contents", "refuse_pickle", "start_from"]
