"""Stage 2: teach the language model to describe pairs and to judge them by what it wrote; the tower is frozen.

Three tasks: the structured pair prompt (about some of the attributes, often few), the generic pair prompt, and the
summary of one picture. Descriptions are true; differences, confidence, reasoning and verdict follow from the *text*: in
a share of the examples a written value is replaced by a wrong one, and everything after follows the replaced text (the
wrong value itself is no target). So the verdict is decided by what the model wrote, and what it writes by what the
tower lets it see — which is what gives a reward on the verdict a path to the tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.experiments.tiny_model.pictures import ATTRIBUTES, VALUES, PicturePool
from fieldmark.models.backbone import Backbone, PromptTokens
from fieldmark.models.logprobs import token_logprobs
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.prompts import describe_prompt, pair_prompt, reference_answer, summary_text
from fieldmark.policy.vocabulary import Vocabulary


@dataclass(frozen=True)
class LanguageRecipe:
    """What the language model is shown."""

    structured_share: float = 0.75
    generic_share: float = 0.12
    same_share: float = 0.4
    """Pairs of one species; of the others ``sibling_share`` are look-alikes, the rest random."""
    sibling_share: float = 0.45
    noised_share: float = 0.5
    """Share of structured examples with replaced values; each value of those is replaced with ``noise``."""
    noise: float = 0.2
    few_marks_share: float = 0.7
    """Structured prompts about 1–4 attributes; the others ask for 5–8 (or all eight field marks)."""
    plumage_share: float = 0.25
    """Structured prompts that may also ask for plumage."""


@dataclass(frozen=True)
class Example:
    """One training text: prompt, answer token ids, and which of them are targets (bool)."""

    prompt: str
    answer: tuple[int, ...]
    targets: tuple[bool, ...]
    pictures: tuple[int, ...]


def draw_example(
    pool: PicturePool,
    recipe: LanguageRecipe,
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
) -> Example:
    """Draw one example; ``rng`` is the only source of randomness."""
    task = rng.random()
    if task < recipe.structured_share:
        return _structured(pool, recipe, vocabulary, tokenizer, rng)
    if task < recipe.structured_share + recipe.generic_share:
        a, b = _pair(pool, recipe, rng)
        first, second = pool.attributes(a), pool.attributes(b)
        text = reference_answer(vocabulary, first, second, _same(first, second, tuple(FIELD_MARKS)), style="generic")
        return _example(tokenizer, pair_prompt(vocabulary, "generic"), text, (a, b))
    a = int(rng.integers(len(pool.images)))
    asked = _ask(recipe, rng, plumage=0.5)
    truth = pool.attributes(a)
    return _example(
        tokenizer, describe_prompt(vocabulary, asked), summary_text({name: truth[name] for name in asked}), (a,)
    )


def _structured(
    pool: PicturePool,
    recipe: LanguageRecipe,
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
) -> Example:
    a, b = _pair(pool, recipe, rng)
    asked = _ask(recipe, rng, plumage=recipe.plumage_share)
    written = [{name: pool.attributes(i)[name] for name in asked} for i in (a, b)]
    replaced: list[set[str]] = [set(), set()]
    if rng.random() < recipe.noised_share:
        for k in (0, 1):
            for name in asked:
                if rng.random() < recipe.noise:
                    # half of the mistakes make the two agree: the text must be believed in both directions
                    other = written[1 - k][name]
                    value = other if rng.random() < 0.5 else VALUES[name][rng.integers(len(VALUES[name]))]
                    if value != written[k][name]:
                        written[k][name] = value
                        replaced[k].add(name)
    marks = tuple(name for name in asked if name in FIELD_MARKS)
    decisive = marks or tuple(FIELD_MARKS)  # asked about plumage alone, it must judge by what it sees
    sides = written if marks else [pool.attributes(a), pool.attributes(b)]
    text = reference_answer(vocabulary, written[0], written[1], _same(sides[0], sides[1], decisive), attributes=asked)
    example = _example(tokenizer, pair_prompt(vocabulary, attributes=asked), text, (a, b))
    if not (replaced[0] or replaced[1]):
        return example
    # Value tokens come in writing order: item 1's attributes, then item 2's.
    values = {tokenizer.convert_tokens_to_ids(v) for name in asked for v in VALUES[name]}
    places = [i for i, token in enumerate(example.answer) if token in values][: 2 * len(asked)]
    order = [(k, name) for k in (0, 1) for name in asked]
    wrong = {place for place, (k, name) in zip(places, order, strict=True) if name in replaced[k]}
    return Example(example.prompt, example.answer, tuple(i not in wrong for i in range(len(example.answer))), (a, b))


def _pair(pool: PicturePool, recipe: LanguageRecipe, rng: np.random.Generator) -> tuple[int, int]:
    """Two pictures: of one species, of look-alikes, or of any two species. Pools are laid out genus by genus."""
    per_species = int((pool.species == 0).sum())
    per_genus = int((pool.genus == 0).sum())
    a = int(rng.integers(len(pool.images)))
    kind = rng.random()
    if kind < recipe.same_share:
        start, count = a // per_species * per_species, per_species
        while (b := start + int(rng.integers(count))) == a:
            pass
    elif kind < recipe.same_share + (1 - recipe.same_share) * recipe.sibling_share:
        start, count = a // per_genus * per_genus, per_genus
        while pool.species[b := start + int(rng.integers(count))] == pool.species[a]:
            pass
    else:
        while pool.genus[b := int(rng.integers(len(pool.images)))] == pool.genus[a]:
            pass
    return a, b


def _ask(recipe: LanguageRecipe, rng: np.random.Generator, plumage: float) -> tuple[str, ...]:
    names = list(ATTRIBUTES) if rng.random() < plumage else list(FIELD_MARKS)
    count = int(rng.integers(1, 5)) if rng.random() < recipe.few_marks_share else int(rng.integers(5, 9))
    if count == 8 and rng.random() < 0.5:
        return tuple(FIELD_MARKS)
    chosen = rng.permutation(names)[:count]
    return tuple(str(name) for name in chosen)


def _same(first: dict[str, str], second: dict[str, str], marks: Sequence[str]) -> bool:
    return all(first[name] == second[name] for name in marks)


def _example(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, pictures: tuple[int, ...]) -> Example:
    ids = (*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    return Example(prompt, ids, (True,) * len(ids), pictures)


def draw_text_example(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> Example:
    """A structured answer without pictures: random values, each shared with probability one half.

    Only what follows from the text is a target. Comparing two written values takes a circuit of several layers; without
    128 picture tokens in each row, and with nothing else to learn, it forms in minutes.
    """
    names = [str(name) for name in rng.permutation(ATTRIBUTES)[: int(rng.integers(1, 9))]]
    first = {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in names}
    second = {
        name: first[name] if rng.random() < 0.5 else VALUES[name][rng.integers(len(VALUES[name]))] for name in names
    }
    marks = [name for name in names if name in FIELD_MARKS]
    text = reference_answer(vocabulary, first, second, _same(first, second, marks), attributes=names)
    example = _example(tokenizer, pair_prompt(vocabulary, attributes=names), text, ())
    start = text.index('"differences"')
    known = len(tokenizer(text[: start - len('"}, ')], add_special_tokens=False)["input_ids"])
    targets = tuple(
        i > known if marks else i > known and i < len(example.answer) - 6 for i in range(len(example.answer))
    )
    return Example(example.prompt, example.answer, targets, ())


@dataclass(frozen=True)
class PoolTokens:
    """What the frozen tower makes of a pool, computed once: float16 (n, N, D) each, and one picture's grid."""

    merged: Tensor
    deepstack: tuple[Tensor, ...]
    grid: Tensor
    merge_size: int

    def select(self, pictures: Sequence[int]) -> VisionTokens:
        """Tokens of some pictures as float32 VisionTokens."""
        index = torch.tensor(list(pictures), dtype=torch.int64)
        return VisionTokens(
            self.merged[index].float().flatten(0, 1),
            tuple(layer[index].float().flatten(0, 1) for layer in self.deepstack),
            self.grid.expand(len(index), 3).clone(),
            self.merge_size,
        )


@torch.no_grad()
def pool_tokens(backbone: Backbone, images: np.ndarray, batch_size: int = 128) -> PoolTokens:
    """Run the tower over all pictures, uint8 (n, H, W, 3)."""
    parts = []
    for start in range(0, len(images), batch_size):
        parts.append(backbone.vision(backbone.pixels(torch.from_numpy(images[start : start + batch_size]))))

    def stack(features: list[Tensor]) -> Tensor:
        return torch.cat([f.half().unflatten(0, (p.num_images, -1)) for f, p in zip(features, parts, strict=True)])

    deepstack = tuple(stack([p.deepstack[k] for p in parts]) for k in range(len(parts[0].deepstack)))
    return PoolTokens(stack([p.merged for p in parts]), deepstack, parts[0].grid_thw[:1], parts[0].merge_size)


def language_loss(backbone: Backbone, tokens: PoolTokens, examples: Sequence[Example]) -> Tensor:
    """Mean cross-entropy over the target tokens of the answers."""
    return answer_loss(backbone, tokens, [backbone.chat_prompt(e.prompt, len(e.pictures)) for e in examples], examples)


def answer_loss(
    backbone: Backbone, tokens: PoolTokens, prompts: Sequence[PromptTokens], examples: Sequence[Example]
) -> Tensor:
    """`language_loss` behind prompts that are tokenised already; those of the examples are not read."""
    flat = [picture for e in examples for picture in e.pictures]
    vision = tokens.select(flat)
    starts = np.cumsum([0, *(len(e.pictures) for e in examples)])
    images = [tuple(range(starts[i], starts[i + 1])) for i in range(len(examples))]
    batch = backbone.embed(prompts, vision, images, suffixes=[e.answer[:-1] for e in examples], padding_side="left")
    hidden = backbone.decode_prompts(batch)
    length = hidden.shape[1]
    # Left padding: a row ends where its answer's last input token stands, so that answers are counted from the end.
    rows = torch.tensor([r for r, e in enumerate(examples) for t in range(len(e.answer)) if e.targets[t]])
    columns = torch.tensor([length - len(e.answer) + t for e in examples for t in range(len(e.answer)) if e.targets[t]])
    targets = torch.tensor([e.answer[t] for e in examples for t in range(len(e.answer)) if e.targets[t]])
    return -token_logprobs(hidden[rows, columns], targets, backbone.head.weight).mean()
