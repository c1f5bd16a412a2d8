"""The families of vision-language models that can be supervisors: every module here that defines `FAMILY`.

A new family is one file beside these; docs/extend.md tells what it contains and which row of the test table proves
it.
"""

import importlib
import pkgutil

from fieldmark.models.families.family import Family

FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__))
    if hasattr(module := importlib.import_module(f"{__name__}.{name}"), "FAMILY")
)


def family_of(model_type: str | None, source: str) -> Family:
    """The family of a `model_type`, as config.json says it. source: named in the error.

    Raises:
        ValueError: none supports it; names those that are supported.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = "; ".join(f"{family.name} ({', '.join(family.model_types)})" for family in FAMILIES)
    hint = (
        ": this is the layout that needs remote code; take the checkpoint whose name ends in -HF"
        if model_type == "internvl_chat"
        else ""
    )
    raise ValueError(f"the model type {model_type!r} of {source} is not supported{hint}. Supported: {supported}")
