"""The options of `fieldmark data fieldguide`: the world's, and those of the retrieval collection drawn from it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval
from fieldmark.data.fieldguide.world import FieldguideConfig

Layout = Literal["folders", "mbeir"]


@dataclass(frozen=True)
class FieldguideOptions(FieldguideConfig):
    """A world, and what is asked of it."""

    retrieval: FieldguideRetrieval = field(default_factory=FieldguideRetrieval)
    """Queries and pools, where the world is written as M-BEIR."""

    @property
    def world(self) -> FieldguideConfig:
        """The world alone."""
        return FieldguideConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(FieldguideConfig)})
