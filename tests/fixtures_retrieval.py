"""A small folder in M-BEIR's layout: coloured squares, their names, and questions about both."""

from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery, write_mbeir

COLOURS = {
    "red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "white": (250, 250, 250), "black": (5, 5, 5),
    "yellow": (240, 240, 10), "pink": (250, 150, 200), "cyan": (10, 230, 230),
}  # fmt: skip
SHADES = ("dark", "plain", "pale")


def write_squares(root: Path) -> Path:
    """24 coloured squares. Queries: their names → squares (task 0), squares → names (task 3), with hard negatives.

    "dark red" has two right squares: the dark one, and the plain one with a lower grade.
    """
    (root / "squares").mkdir(parents=True)
    squares, names, queries = [], [], []
    for number, (shade, colour) in enumerate((s, c) for s in SHADES for c in COLOURS):
        rgb = np.array(COLOURS[colour]) * {"dark": 0.5, "plain": 1.0, "pale": 0.8}[shade]
        picture = Image.fromarray(np.full((20, 24, 3), rgb, dtype=np.uint8))
        picture.save(root / "squares" / f"{number}.png")
        squares.append(NewCandidate(number, image=f"squares/{number}.png"))
        names.append(NewCandidate(100 + number, text=f"a {shade} {colour} square"))
        other = (number + 1) % 24
        positives = {number: 2, number + 8: 1} if shade == "dark" else {number: 2}
        queries.append(NewQuery(number, "train", 0, positives, text=f"{shade} {colour}", negatives=(other,)))
        queries.append(
            NewQuery(
                100 + number, "train", 3, {100 + number: 1}, image=f"squares/{number}.png", negatives=(100 + other,)
            )
        )
    wordings = {0: ("Find the square.", "Which square is it?"), 3: ("Name the square.",)}
    pools = {(0, "train"): squares, (3, "train"): names}
    write_mbeir(root, NewCollection("squares", 10, queries, pools, wordings))
    return root
