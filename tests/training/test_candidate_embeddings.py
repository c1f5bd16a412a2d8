"""Embeddings of candidates that are not made again; within a training run: test_elva.py."""

import torch

from fieldmark.training.candidate_embeddings import RememberedRows


def test_rows_are_remembered_until_they_no_longer_fit():
    asked = []

    def get(places):
        def embed(missing):
            asked.append([places[i] for i in missing])
            return torch.tensor([[10.0 * places[i], 1.0] for i in missing])

        return rows.rows(places, embed)[:, 0].tolist()

    rows = RememberedRows(4, 2)
    assert get([7, 3]) == [70, 30] and get([3, 5]) == [30, 50] and get([5, 7, 3]) == [50, 70, 30]
    assert asked == [[7, 3], [5]]
    assert get([3, 8, 9]) == [30, 80, 90] and asked[2:] == [[3, 8, 9]], "5 and 7 had to go, and 3 with them"
    assert get([9]) == [90] and len(asked) == 3
    rows.forget()
    assert get([9]) == [90] and asked[3:] == [[9]]
