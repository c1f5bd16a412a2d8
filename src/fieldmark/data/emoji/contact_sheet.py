"""One picture to look at: some emoji of every group, a row for each style."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.emoji.catalogue import Catalogue

_COLUMNS = 20


def contact_sheet(root: Path, catalogue: Catalogue, rows: int = 3) -> Image.Image:
    """`rows` bands of `_COLUMNS` emoji, evenly spread over the order of the charts; in each band a row for each style.

    White is left where a style lacks an emoji.
    """
    paths: dict[str, dict[str, str]] = defaultdict(dict)
    for picture in catalogue.pictures:
        paths[picture.hexcode][picture.style] = picture.path
    count = min(rows * _COLUMNS, len(catalogue.concepts))
    chosen = [catalogue.concepts[int(i)] for i in np.linspace(0, len(catalogue.concepts) - 1, count)]
    with Image.open(root / catalogue.pictures[0].path) as first:
        side = first.width
    styles = list(catalogue.titles)
    bands = -(-count // _COLUMNS)
    gap = side // 4
    sheet = Image.new("RGB", (min(count, _COLUMNS) * side, bands * (len(styles) * side + gap) - gap), "white")
    for number, concept in enumerate(chosen):
        band, column = divmod(number, _COLUMNS)
        for row, style in enumerate(styles):
            if path := paths[concept.hexcode].get(style):
                with Image.open(root / path) as drawn:
                    sheet.paste(drawn, (column * side, band * (len(styles) * side + gap) + row * side))
    return sheet
