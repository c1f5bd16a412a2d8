"""Official benchmark archives as they are downloaded: CUB-200-2011, Cars-196, FGVC-Aircraft, iNat-2021 Aves.

- `catalogue`: which benchmark lies at a path, and its pictures
- `inspection`: `fieldmark data inspect cub --root PATH`, counts held to the published ones
- `cub`, `cars`, `aircraft`, `inat`: one reader each
- `archives`: packed archives → folders, safely
- `matlab`: the tables of Cars-196
"""
