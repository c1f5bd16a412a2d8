"""Data: pictures in, safely decoded, labelled, split by class, sampled and loaded ahead of the step.

Import from the modules, so that a decoding worker does not have to load torch:

- `decode`: one picture file, whatever is wrong with it → RGB, or `BadImage` with the reason
- `collection`: folders, imagefolder, parquet → `LabelledImages`
- `benchmarks`: CUB-200-2011, Cars-196, FGVC-Aircraft and iNat-2021 Aves as they are downloaded
- `inspection`: what is in a collection, and what is odd about it
- `splits`: class-disjoint training, validation and test parts
- `samplers`: class-balanced batches, and pairs for the verdicts
- `loader`: batches that are decoded and resized ahead of the step
- `fieldguide`: the bundled picture world, as class folders or as a retrieval collection
- `retrieval`: items, queries with grains, tasks with graded relevance
- `multimodal`: M-BEIR and its layout, one's own queries, sentence triplets, videos
"""
