"""Which queries are searched in which pool.

Data sets, as M-BEIR counts them:

| data set | tasks | queries | pool |
|---|---|---|---|
| emoji | 0 | texts | pictures in the seen styles |
| emoji | 3 | pictures in the seen styles | texts |
| emoji-STYLE | 4, 7 | pictures in STYLE | pictures in the other seen styles: never the query's own |
| emoji-HELDOUT | 0 | texts | pictures in the held-out style |
| emoji-HELDOUT | 3, 4, 7 | pictures in the held-out style | texts; pictures in the seen styles |

Each has the splits train, val and test, whose concepts differ; data sets of the held-out style have test only. Every
pool holds its own split's candidates only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fieldmark.data.emoji.catalogue import Catalogue, SplitView
from fieldmark.data.emoji.picture_queries import EDIT, NAMING, SAME, edit_queries, naming_queries, same_queries
from fieldmark.data.emoji.text_queries import TASK as TEXT
from fieldmark.data.emoji.text_queries import text_queries
from fieldmark.data.multimodal.mbeir_layout import SPLITS
from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery

POOL_NUMBER = 10
"""Number of the data set `emoji`, to which all candidates belong; those of the styles follow."""

# Short: the bundled model's tokenizer spells them in bytes.
_WORDINGS = {
    TEXT: ("Find this emoji.", "Which picture fits?", "Show such an emoji.", "Picture wanted."),
    NAMING: ("Name this emoji.", "Which words fit?", "Find its name or keywords.", "Text wanted."),
    SAME: ("The same in another style.", "Who else draws this?", "Find its counterpart.", "Same emoji."),
    EDIT: ("Find it, but changed.", "Change this in it.", "Picture and wish: what fits?", "It, with this:"),
}


def make_datasets(
    catalogue: Catalogue, seen: Sequence[str], held_out: str | None, splits: Sequence[str], seed: int
) -> tuple[list[NewCollection], int]:
    """Every data set that has queries, and how many text queries were left out as too vague.

    Args:
        catalogue: all there is; it may lack pictures, never styles.
        seen: styles to train with.
        held_out: style for testing only.
        splits: those to make queries for.
        seed: of what the queries draw.
    """
    styles = list(catalogue.titles)
    drafts = {style: _Draft(f"emoji-{style}", POOL_NUMBER + 1 + k) for k, style in enumerate(styles)}
    general = _Draft("emoji", POOL_NUMBER)
    candidates = (*catalogue.picture_candidates, *catalogue.text_candidates)
    vague = 0
    for split in splits:
        view = SplitView(catalogue, split)

        def pool(numbers: Sequence[int]) -> tuple[NewCandidate, ...]:
            return tuple(candidates[number] for number in numbers)

        with_texts = [(general, list(seen))]
        if held_out is not None and split == "test":
            with_texts.append((drafts[held_out], [held_out]))
        for draft, drawn in with_texts:
            rng = np.random.default_rng([seed, 2, SPLITS.index(split), draft.number])
            queries, left_out = text_queries(view, len(draft.queries), drawn, rng)
            vague += left_out
            draft.add(TEXT, split, queries, pool(view.pictures(drawn)))
            draft.add(NAMING, split, naming_queries(view, len(draft.queries), drawn), pool(view.texts))
        for style in styles if split == "test" else seen:
            others = [one for one in seen if one != style]
            draft, shared = drafts[style], pool(view.pictures(others))
            rng = np.random.default_rng([seed, 3, SPLITS.index(split), draft.number])
            draft.add(SAME, split, same_queries(view, len(draft.queries), style, others), shared)
            draft.add(EDIT, split, edit_queries(view, len(draft.queries), style, others, rng), shared)
    return [draft.finished() for draft in (general, *drafts.values()) if draft.queries], vague


@dataclass
class _Draft:
    """A data set that grows task by task. Queries are numbered in the order in which they come."""

    name: str
    number: int
    queries: list[NewQuery] = field(default_factory=list)
    pools: dict[tuple[int, str], tuple[NewCandidate, ...]] = field(default_factory=dict)

    def add(self, task: int, split: str, queries: Sequence[NewQuery], pool: tuple[NewCandidate, ...]) -> None:
        if queries:
            self.queries.extend(queries)
            self.pools[task, split] = pool

    def finished(self) -> NewCollection:
        wordings = {task: _WORDINGS[task] for task, _ in self.pools}
        return NewCollection(self.name, self.number, self.queries, self.pools, wordings, candidates_of=POOL_NUMBER)
