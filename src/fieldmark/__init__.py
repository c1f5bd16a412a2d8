"""Fieldmark: retrieval embeddings taught by the verdicts of a multimodal language model.

A multimodal LLM looks at pairs of pictures, says what tells them apart, and the reward of its verdict becomes
the gradient of the encoder. The rooms, from the bottom up: `data`, `models` and `losses`, `policy`,
`evaluation`, `training` and `report`, `search`, `experiments`, `cli`. Imports run from the top down only.

`__version__` is the version of the installed distribution.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fieldmark")
except PackageNotFoundError:  # run from a source tree (PYTHONPATH=src) that was never installed
    __version__ = "0+source"

__all__ = ["__version__"]
