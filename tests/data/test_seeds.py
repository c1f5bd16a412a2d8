import torch

from fieldmark.data.seeds import seed_of


def test_every_number_counts_and_generators_see_it():
    seeds = [seed_of(a, b) for a in (0, 1, 2**40) for b in (0, 1, 2)]
    assert seeds == [seed_of(a, b) for a in (0, 1, 2**40) for b in (0, 1, 2)]
    assert len(set(seeds)) == 9 and all(0 <= s < 2**32 for s in seeds)
    draws = {float(torch.rand(1, generator=torch.Generator().manual_seed(s))) for s in seeds}
    assert len(draws) == 9
