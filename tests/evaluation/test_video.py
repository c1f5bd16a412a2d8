"""Text → video on folders of frames."""

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures_colors import ColorEncoder, square

from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.evaluation.video import evaluate_video


def test_recall_and_median_rank(tmp_path: Path) -> None:
    videos = []
    for name, colors in (("a", ("red", "red")), ("b", ("blue", "blue")), ("c", ("green", "yellow"))):
        for i, color in enumerate(colors):
            square(tmp_path / name / f"{i}.png", color, "light")
        videos.append(Item(name, video=tmp_path / name))
    asked = {"a/0": "red, light", "a/1": "blue", "b/0": "blue", "c/0": "yellow, green"}
    queries = [Query(Item(name, text)) for name, text in asked.items()]
    task = RetrievalTask("films", queries, videos, {name: {name[0]: 1.0} for name in asked})
    result = evaluate_video(ColorEncoder(), task, EncodingConfig(frames=2, workers=0), np.random.default_rng(0))
    assert result.metrics.first_hit.tolist()[0] == 1 and result.metrics.first_hit.tolist()[1] > 1
    assert result.metrics.recall_at_k == {1: 0.75, 5: 1.0, 10: 1.0}
    found = result.as_json()
    assert found["median_rank"] == 1 and found["num_videos"] == 3 and found["num_queries"] == 4
    # whole videos are resampled: with 2, 1, 1 captions the mean is not the mean of the captions' draws
    assert found["recall_at_1_interval"] == pytest.approx([0.5, 1.0])
    assert "MdR" in result.as_text() and "75.0" in result.as_text()
