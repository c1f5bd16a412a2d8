"""A supervisor's account of two pictures, from answers that are given to it."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.evaluation import pair_account
from fieldmark.evaluation.pair_account import PairAccount, PromptAnswer, account_of_pair, published_layer
from fieldmark.models.backbone import Backbone
from fieldmark.models.sampling import Completion
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.alignment import attribute_maps
from fieldmark.policy.prompts import answer_json
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.policy.vocabulary import load_vocabulary

BIRDS = load_vocabulary("fieldguide")


def answer(names: Sequence[str], first: Sequence[str], second: Sequence[str], same: bool) -> str:
    a, b = dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))
    return answer_json(BIRDS, a, b, "the wing", "high", "because", same)


def backbone_of_long_texts() -> Backbone:
    """Its tokens are bytes."""
    backbone = tiny_backbone(0)
    backbone.context_length = 8192
    return backbone


def asked(monkeypatch: pytest.MonkeyPatch, answers: list[list[str]], **options) -> PairAccount:
    """An account where the prompts, in order, are answered by these texts."""
    backbone = backbone_of_long_texts()

    def sample(_, vision, prompts, images, *, num_samples, **rest):
        assert len(prompts) == len(answers) and all(len(group) == num_samples for group in answers)
        assert images == [(0, 1)] * len(prompts)
        made = []
        for group in answers:
            ids = [torch.tensor(backbone.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in group]
            made.append([Completion(i, *[torch.zeros(len(i))] * 2, torch.zeros(len(i), 0), "stop") for i in ids])
        return made

    monkeypatch.setattr(pair_account, "sample", sample)
    config = RolloutConfig(vocabulary="fieldguide", attributes_per_prompt=options.pop("per_prompt", 4))
    generator = torch.Generator().manual_seed(0)
    return account_of_pair(backbone, pictures(2, 16, seed=1), config, generator, completions=len(answers[0]), **options)


def test_values_verdicts_and_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = BIRDS.attributes[:4], BIRDS.attributes[4:]
    texts = [
        [
            answer(one, ("hooked", "red", "plain", "barred"), ("hooked", "blue", "plain", "barred"), False),
            answer(one, ("Hooked", "red", "plain", "barred"), ("needle", "Blue", "plain", "barred"), False),
            answer(one, ("conical", "red", "plain", "barred"), ("conical", "red", "plain", "barred"), True),
        ],
        [
            answer(two, ("white", "forked", "none", "pink"), ("white", "forked", "none", "pink"), True),
            "no answer at all",
            answer(two, ("white", "square", "none", "pink"), ("white", "forked", "none", "pink"), True),
        ],
    ]
    account = asked(monkeypatch, texts, layer=1)
    assert [(a.same, a.different, a.unreadable) for a in account.answers] == [(1, 2, 0), (2, 0, 1)]
    assert [a.verdict for a in account.answers] == [False, True] and account.verdict is False
    assert account.answers[0].remarks["differences"] == "the wing"
    assert account.question == "same species" and account.layer == 1
    by_name = {a.name: a for a in account.attributes}
    assert tuple(by_name) == BIRDS.attributes
    assert by_name["bill shape"].values == (
        (("hooked", 2), ("conical", 1)),
        (("hooked", 1), ("needle", 1), ("conical", 1)),
    )
    assert by_name["bill color"].values[1] == (("blue", 2), ("red", 1))
    assert [name for name, a in by_name.items() if a.differs] == ["bill color"]
    # The first and the third of the second prompt are equal but for one value that both are alone with.
    assert by_name["tail shape"].shown == ("forked", "forked")
    for described in account.attributes:
        for attention in described.attention:
            assert attention is not None and attention.shape == (2, 2) and attention.sum() == pytest.approx(1)


def test_attention_equals_a_plain_replay_of_the_shown_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    text = answer(BIRDS.attributes, *[[values[0] for values in [("x" * (k + 1),) for k in range(8)]]] * 2, True)
    account = asked(monkeypatch, [[text]], per_prompt=None)
    assert account.layer == published_layer(tiny_backbone(0)) and account.verdict is True
    backbone = backbone_of_long_texts()
    with torch.no_grad():
        vision = backbone.vision(backbone.pixels(pictures(2, 16, seed=1)))
        prompt = pair_account.build_prompt(BIRDS)
        ids = torch.tensor(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])
        tokens = backbone.chat_prompt(prompt.text, 2)
        group = ReplayGroup(tokens, (0, 1), (ids,))
        (chunk,) = replay(backbone, vision, [group], method="unpacked", attention_layer=account.layer)
    completion = Completion(ids, *[torch.zeros(len(ids))] * 2, torch.zeros(len(ids), 0), "stop")
    reward = pair_account.resolve_reward("verdict_correct")
    rollout = pair_account.read_rollout(backbone.tokenizer, completion, prompt, True, "same", reward, None)
    spans = [torch.arange(span.start, span.stop) for span in chunk.image_spans[0]]
    maps = attribute_maps(chunk.attention[0][0], rollout, *spans)
    for described in account.attributes:
        for item in (0, 1):
            np.testing.assert_allclose(described.attention[item].ravel(), maps[item][described.name], atol=1e-5)


def test_nothing_readable_describes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    account = asked(monkeypatch, [["?", "{"], ["", "yes"]])
    assert account.verdict is None and [a.unreadable for a in account.answers] == [2, 2]
    assert len(account.attributes) == 8 and not any(a.differs for a in account.attributes)
    assert all(a.values == ((), ()) and a.attention == (None, None) for a in account.attributes)
    content = account.as_json()
    assert content["verdict"] is None and content["answers"][0]["remarks"] == {}


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([(2, 1)], True),
        ([(1, 2)], False),
        ([(1, 1)], None),
        ([(2, 0), (0, 2), (2, 0)], False),
        ([(2, 0), (1, 1)], None),
        ([(2, 0), (2, 1)], True),
        ([(0, 0)], None),
    ],
)
def test_the_verdict_of_several_prompts(votes: list[tuple[int, int]], verdict: bool | None) -> None:
    answers = tuple(PromptAnswer(("x",), same, different, 0, {}) for same, different in votes)
    assert PairAccount("same", answers, (), 0).verdict is verdict


def test_wrong_input_is_told() -> None:
    backbone, config = tiny_backbone(0), RolloutConfig(vocabulary="fieldguide")
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="two pictures"):
        account_of_pair(backbone, pictures(3, 16), config, generator)
    with pytest.raises(ValueError, match=r"layer 3 is not one of 0\.\.2"):
        account_of_pair(backbone, pictures(2, 16), config, generator, layer=3)
