"""The pictures of items, as decoding processes read them: no torch here."""

import itertools
from collections.abc import Sequence

from PIL import Image

from fieldmark.data.decode import DEFAULT_LIMITS, DecodeLimits, decode_image
from fieldmark.data.retrieval import Item, Query


class ItemPictures:
    """Items as what `PictureReader` reads: number → picture.

    Args:
        sources: candidates or queries; of several sequences the numbers run on from one to the next.
        limits: what decoding one picture may cost.
    """

    def __init__(self, *sources: Sequence[Item] | Sequence[Query], limits: DecodeLimits = DEFAULT_LIMITS) -> None:
        self._sources = sources
        self._ends = list(itertools.accumulate(len(source) for source in sources))
        self._limits = limits

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def item(self, i: int) -> Item:
        """Item number i; a query's item."""
        if not 0 <= i < len(self):
            raise ValueError(f"items are numbered from 0 to {len(self) - 1}, got {i}")
        place = next(k for k, end in enumerate(self._ends) if i < end)
        found = self._sources[place][i - (self._ends[place - 1] if place else 0)]
        return found.item if isinstance(found, Query) else found

    def decode(self, i: int) -> Image.Image:
        """Its picture as RGB. Raises `BadImage`, naming the file."""
        path = self.item(i).image
        assert path is not None, "only items with a picture are asked for"
        return decode_image(path, self._limits)

    def name(self, i: int) -> str:
        """How errors call it."""
        return str(self.item(i).image)
