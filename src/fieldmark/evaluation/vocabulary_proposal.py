"""A vocabulary for pictures that nobody has written one for: ask the supervisor, measure, rank.

1. *Name.* The supervisor is shown pairs of the same and of different classes and names attributes.
2. *Describe.* It is shown single pictures and writes the value of each attribute: a table of pictures × attributes.
3. *Merge.* Names that are spelt alike, or whose values agree on the same pictures beyond chance, become one.
4. *Rank.* By how much more often two pictures of one class agree in an attribute than two of different classes.
   What certainly separates becomes `attributes`, the rest `other_attributes`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.collection import LabelledImages
from fieldmark.data.loader import load_all
from fieldmark.data.samplers import sample_pairs
from fieldmark.evaluation.attribute_ranking import AttributeScore, merge_synonyms, rank_attributes
from fieldmark.models.backbone import Backbone
from fieldmark.models.sampling import sample
from fieldmark.policy.attribute_answers import (
    Discovery,
    discovery_prompt,
    named_attributes,
    read_summary,
    usable_name,
)
from fieldmark.policy.prompts import describe_prompt
from fieldmark.policy.vocabulary import Vocabulary, attribute_key, load_vocabulary
from fieldmark.policy.vocabulary_file import vocabulary_yaml


@dataclass(frozen=True)
class ProposalConfig:
    """What the supervisor is shown and asked, and what becomes of its answers."""

    base: str = ""
    """Vocabulary to start from (bundled name or YAML file): its words are used, and all its attributes, the others too,
    are candidates on equal terms. Not given: neutral words made from item and kind."""
    item: str = "object"
    """What one picture shows, for the prompts ("mushroom"); used without a base."""
    items: str = ""
    """Its plural. Not given: item and an s."""
    kind: str = "kind"
    """What a class is ("species", "model", "part number"); used without a base."""
    candidates: tuple[str, ...] = ()
    """Further attributes to ask about, whether the supervisor names them or not."""
    discovery: Discovery = "list"
    """How the supervisor is made to name attributes: list (a JSON list for both pictures), or differences (the generic
    pair prompt, read for "name: ..."; the only one that the bundled model understands)."""
    pairs: int = 32
    """Pairs shown for naming, half of the same class; 0 asks about candidates and base only."""
    min_share: float = 0.1
    """Names are asked about if at least this share of the readable answers uses them."""
    max_attributes: int = 40
    """Ask about so many attributes at most, candidates first, then the most used."""
    classes: int = 32
    """Classes, drawn from the training classes, whose pictures are described."""
    pictures_per_class: int = 4
    """Pictures described of each."""
    attributes_per_prompt: int = 4
    """Attributes asked for in one question about a picture."""
    same_meaning: float = 0.6
    """Two names become one if their values on the same pictures agree with at least this κ (1: always, 0: as by
    chance)."""
    threshold: float = 0.0
    """An attribute goes to `attributes` if the lower end of the 95 % interval of its separation is above this, else to
    `other_attributes`. 0: what separates at all; one in forty of the attributes that do not will pass all the same."""
    temperature: float = 0.7
    """Of sampling when attributes are named; descriptions are greedy."""
    top_p: float = 0.95
    """Nucleus of that sampling."""
    max_new_tokens: int = 512
    """Answers are cut here."""
    pictures_per_batch: int = 32
    """Pictures whose tokens are held at one time."""
    seed: int = 0
    """Of classes, pictures, pairs, sampling and intervals."""

    def __post_init__(self) -> None:
        for name in ("max_attributes", "attributes_per_prompt", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, least in (("classes", 2), ("pictures_per_class", 2), ("pictures_per_batch", 2), ("pairs", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.min_share <= 1 or not 0 < self.same_meaning <= 1 or not -1 <= self.threshold < 1:
            raise ValueError(
                "need 0 <= min_share <= 1, 0 < same_meaning <= 1 and -1 <= threshold < 1, got "
                f"{self.min_share}, {self.same_meaning}, {self.threshold}"
            )
        if not self.pairs and not self.candidates and not self.base:
            raise ValueError("with pairs=0 nothing names an attribute: give candidates or a base, or show pairs")
        bad = [name for name in self.candidates if usable_name(name) is None]
        if bad:
            raise ValueError(f"candidate {bad[0]!r} cannot be an attribute: a short name without commas and quotes")


@dataclass(frozen=True)
class Proposal:
    """What was found."""

    vocabulary: Vocabulary
    scores: tuple[AttributeScore, ...]
    """All attributes that could be scored, best separation first."""
    synonyms: dict[str, tuple[str, ...]]
    """Attribute → other names that were merged into it."""
    named: dict[str, int]
    """Name → answers about pairs that use it, before merging."""
    unscored: tuple[str, ...]
    """Asked about, but too rarely answered to be scored; not in the vocabulary."""
    pairs_asked: int
    pairs_read: int
    """Answers about pairs that could be read."""
    pictures: int
    classes: int
    answered: float
    """Share of picture × attribute that got a value."""
    threshold: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def as_text(self) -> str:
        """The ranking as a table."""
        width = max(len(s.name) for s in self.scores) + 2
        rows = [f"{'':3}{'attribute':<{width}}{'separation':>11}{'95 % interval':>17}{'same':>7}{'other':>7}  e.g."]
        for place, s in enumerate(self.scores, 1):
            mark = "" if s.name in self.vocabulary.attributes else "  (other)"
            interval = f"{s.low:+.2f} to {s.high:+.2f}"
            examples = ", ".join(value for value, _ in s.examples)
            rows.append(
                f"{place:<3}{s.name:<{width}}{s.separation:>+11.2f}{interval:>17}{s.same:>7.2f}{s.different:>7.2f}"
                f"  {examples}{mark}"
            )
        rows.append(
            f"{self.pictures} pictures of {self.classes} classes, {self.answered:.0%} of the questions answered; "
            f"{self.pairs_read} of {self.pairs_asked} answers about pairs could be read"
        )
        if self.unscored:
            rows.append(f"not scored, for want of answers: {', '.join(self.unscored)}")
        return "\n".join(rows)

    def as_yaml(self, header: Sequence[str] = ()) -> str:
        """The vocabulary with counts and examples as comments: edit it, and give its path as rollouts.vocabulary."""
        remarks = {}
        for s in self.scores:
            parts = [
                f"separation {s.separation:+.2f} [{s.low:+.2f}, {s.high:+.2f}]",
                f"agrees {s.same:.2f} same, {s.different:.2f} different",
                f"{s.pictures} pictures",
                f"named in {self.named.get(s.name, 0)} of {self.pairs_read} pairs",
                "e.g. " + ", ".join(f"{value} ({count})" for value, count in s.examples),
            ]
            if s.name in self.synonyms:
                parts.append(f"also named {', '.join(self.synonyms[s.name])}")
            remarks[s.name] = "; ".join(parts)
        explained = (
            *header,
            "Separation: how much more often two pictures of one class agree in an attribute than two of different",
            f"classes. attributes: the lower end of its 95 % interval is above {self.threshold:g}; other_attributes:",
            "the rest (they vary within classes, hardly vary at all, or were seen too rarely). Edit as you like.",
        )
        return vocabulary_yaml(self.vocabulary, remarks, explained)


def propose_vocabulary(
    backbone: Backbone, images: LabelledImages, config: ProposalConfig, image_size: int, name: str = "proposed"
) -> Proposal:
    """Name, describe, merge, rank.

    Args:
        images: training pictures (never those of test classes).
        image_size: side in pixels at which the supervisor sees them.
        name: of the vocabulary.

    Raises:
        ValueError: too few pictures of a class, no readable answer, a question that does not fit into the supervisor's
            context, or no attribute that separates.
    """
    words = _words(config, name)
    generator = torch.Generator().manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    chosen = _choose(images.labels, config, rng)
    labels = images.labels[chosen]
    pictures = torch.cat([b.images for b in load_all(images.subset(chosen), image_size, workers=0)])

    named: Counter[str] = Counter()
    read = 0
    if config.pairs:
        answers = _ask_pairs(backbone, pictures, labels, words, config, generator)
        found = [names for names in answers if names is not None]
        read = len(found)
        named = Counter(name for names in found for name in names)
    candidates = _candidates(named, read, words, config)
    if not candidates:
        raise ValueError(
            f"no attribute to ask about: {read} of {config.pairs} answers about pairs could be read. Try the other "
            "discovery (list or differences), more max_new_tokens, or give candidates"
        )
    values = _describe(backbone, pictures, candidates, words, config, generator)
    by_use = sorted(candidates, key=lambda c: (-named.get(c, 0), candidates.index(c)))
    kept_as = merge_synonyms(values, by_use, threshold=config.same_meaning)
    synonyms: dict[str, tuple[str, ...]] = {}
    for one, kept in kept_as.items():
        if one != kept:
            synonyms[kept] = (*synonyms.get(kept, ()), one)
    merged = [_merge(row, kept_as) for row in values]
    kept_names = [c for c in candidates if kept_as[c] == c]
    scores = rank_attributes(merged, labels, kept_names, seed=config.seed)
    vocabulary = _vocabulary(words, scores, config)
    ranked = {s.name for s in scores}
    return Proposal(
        vocabulary=vocabulary,
        scores=tuple(scores),
        synonyms=synonyms,
        named=dict(sorted(named.items(), key=lambda pair: (-pair[1], pair[0]))),
        unscored=tuple(c for c in kept_names if c not in ranked),
        pairs_asked=config.pairs,
        pairs_read=read,
        pictures=len(chosen),
        classes=len(np.unique(labels)),
        answered=sum(map(len, values)) / (len(values) * len(candidates)),
        threshold=config.threshold,
    )


def _words(config: ProposalConfig, name: str) -> Vocabulary:
    """The texts of the prompts; attributes are those of the base (none without)."""
    if config.base:
        return replace(load_vocabulary(config.base), name=name)
    item, items, kind = config.item.strip(), config.items.strip() or f"{config.item.strip()}s", config.kind.strip()
    if not item or not kind or any(not usable_name(text) for text in (item, items, kind)):
        raise ValueError(f"item {config.item!r}, items {config.items!r} and kind {config.kind!r} must be plain words")
    return Vocabulary(
        name=name,
        expert=f"{item} expert",
        prefix=item.capitalize(),
        identifies=f"telling {items} apart",
        targets=items,
        item=item,
        items=items,
        example="",
        verdict_label=f"Same {kind}",
        verdict_question=f"same {kind}",
        verdict_key=f"same_{kind}".replace(" ", "_"),
        attributes=(),
    )


def _choose(labels: np.ndarray, config: ProposalConfig, rng: np.random.Generator) -> np.ndarray:
    """Indices of the pictures to describe: `pictures_per_class` (or all, of smaller classes) of `classes` classes."""
    own = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    own = [indices for indices in own if len(indices) > 1]
    if len(own) < 2:
        raise ValueError(
            f"{len(own)} training classes have two pictures or more, but pairs of one class and of different classes "
            "are needed: give more classes, or more pictures of each"
        )
    places = rng.permutation(len(own))[: config.classes]
    return np.concatenate([rng.permutation(own[p])[: config.pictures_per_class] for p in places])


def _ask_pairs(
    backbone: Backbone,
    pictures: Tensor,
    labels: np.ndarray,
    words: Vocabulary,
    config: ProposalConfig,
    generator: torch.Generator,
) -> list[tuple[str, ...] | None]:
    """For each pair shown the attributes that the answer names, or None if it cannot be read."""
    text = discovery_prompt(words, config.discovery)
    pairs = sample_pairs(labels, config.pairs, generator)
    answers = []
    step = config.pictures_per_batch // 2
    for start in range(0, len(pairs), step):
        some = pairs[start : start + step]
        index = sorted({i for p in some for i in (p.a, p.b)})
        place = {i: k for k, i in enumerate(index)}
        shown = [(place[p.a], place[p.b]) for p in some]
        answers += _answers(backbone, pictures[index], [text] * len(some), shown, config, generator, greedy=False)
    return [named_attributes(answer, words, config.discovery) for answer in answers]


def _candidates(named: Mapping[str, int], read: int, words: Vocabulary, config: ProposalConfig) -> list[str]:
    """Names to ask about, each spelling once: those given, those of the base, then those used often enough."""
    given = [name for one in (*config.candidates, *words.all_attributes) if (name := usable_name(one)) is not None]
    used = sorted((n for n, count in named.items() if count >= config.min_share * read), key=lambda n: (-named[n], n))
    return list({attribute_key(n): n for n in reversed([*given, *used])}.values())[::-1][: config.max_attributes]


def _describe(
    backbone: Backbone,
    pictures: Tensor,
    candidates: Sequence[str],
    words: Vocabulary,
    config: ProposalConfig,
    generator: torch.Generator,
) -> list[dict[str, str]]:
    """For each picture the values that the supervisor writes, question by question."""
    asking = replace(words, attributes=tuple(candidates), other_attributes=())
    step = config.attributes_per_prompt
    parts = [tuple(candidates[i : i + step]) for i in range(0, len(candidates), step)]
    texts = [describe_prompt(asking, part) for part in parts]
    table: list[dict[str, str]] = []
    for start in range(0, len(pictures), config.pictures_per_batch):
        some = pictures[start : start + config.pictures_per_batch]
        shown = [(i,) for i in range(len(some)) for _ in texts]
        answers = _answers(backbone, some, texts * len(some), shown, config, generator, greedy=True)
        for i in range(len(some)):
            row: dict[str, str] = {}
            for part, answer in zip(parts, answers[i * len(parts) : (i + 1) * len(parts)], strict=True):
                row |= read_summary(answer, part)
            table.append(row)
    return table


@torch.no_grad()
def _answers(
    backbone: Backbone,
    pictures: Tensor,
    texts: Sequence[str],
    shown: Sequence[tuple[int, ...]],
    config: ProposalConfig,
    generator: torch.Generator,
    *,
    greedy: bool,
) -> list[str]:
    """One answer to each text about the pictures (uint8 (n, H, W, 3)) that it is shown with."""
    prompts = [backbone.chat_prompt(text, len(images)) for text, images in zip(texts, shown, strict=True)]
    vision = backbone.vision(backbone.pixels(pictures.to(backbone.device)))
    patches = max(tokens.shape[0] for tokens in vision.split())
    needed = max(len(p.ids) + patches * len(i) for p, i in zip(prompts, shown, strict=True)) + config.max_new_tokens
    if needed > backbone.context_length:
        raise ValueError(
            f"a question with its pictures and {config.max_new_tokens} new tokens needs {needed} positions, but the "
            f"supervisor has {backbone.context_length}: lower max_new_tokens, attributes_per_prompt or data.image_size"
        )
    completions = sample(
        backbone,
        vision.detach(),
        prompts,
        list(shown),
        num_samples=1,
        temperature=0.0 if greedy else config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        generator=generator,
    )
    return [str(backbone.tokenizer.decode(one.ids, skip_special_tokens=True)) for (one,) in completions]


def _merge(row: Mapping[str, str], kept_as: Mapping[str, str]) -> dict[str, str]:
    """A picture's values under the kept names; where both have one, the kept name's own."""
    merged = {kept_as[name]: value for name, value in row.items() if kept_as[name] != name}
    return merged | {name: value for name, value in row.items() if kept_as[name] == name}


def _vocabulary(words: Vocabulary, scores: Sequence[AttributeScore], config: ProposalConfig) -> Vocabulary:
    good = tuple(s.name for s in scores if s.low > config.threshold)
    if not good:
        best = ", ".join(f"{s.name} {s.separation:+.2f} (from {s.low:+.2f})" for s in scores[:3]) or "none was answered"
        raise ValueError(
            f"no attribute separates the classes with certainty (best: {best}): describe more classes or pictures, "
            "lower the threshold, or use a supervisor that sees more"
        )
    example = words.example or _example(scores[0])
    return replace(
        words, attributes=good, other_attributes=tuple(s.name for s in scores if s.name not in good), example=example
    )


def _example(score: AttributeScore) -> str:
    """The most frequent value that can stand in a prompt."""
    clean = (" ".join(value.split()) for value, _ in score.examples)
    return next((v for v in clean if v.isprintable() and '"' not in v and "\\" not in v), score.name)
