"""The command that shows what a supervisor is asked."""

from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("prompt show", "the text that a supervisor is asked about a pair")
def _prompt_show(options: "Options") -> Run:
    """Prints the text that follows two pictures. With --supervisor, the whole prompt as that model sees it: its chat
    template filled in, special tokens included, a picture's tokens as TOKEN*COUNT, and how many tokens
    these are. Of the checkpoint only configuration, tokenizer and image processor are read.

    examples:
      fieldmark prompt show --vocabulary cars
      fieldmark prompt show --vocabulary my_parts.yaml --attributes "head shape, thread"
      fieldmark prompt show --vocabulary birds --supervisor Qwen/Qwen3-VL-8B-Instruct --tokens
    """
    from fieldmark.policy.prompts import PromptStyle

    options.add("--vocabulary", "birds, cars, aircraft, fieldguide, or the path of a YAML file.", default="fieldguide")
    options.add(
        "--style",
        "structured: attribute by attribute; generic: differences and verdict only.",
        PromptStyle,
        "structured",
    )
    options.add("--attributes", "Ask for these only, separated by commas.", str | None)
    options.add("--supervisor", "Checkpoint folder, hub id or bundled: show what this model sees.", str | None)
    options.add("--image_size", "Side of the pictures, which decides how many tokens they take.", int, 224)
    options.flag("--tokens", "With --supervisor: one token per line, with its id.")

    def run(given: "Given") -> None:
        from fieldmark.policy.prompts import pair_prompt
        from fieldmark.policy.vocabulary import load_vocabulary

        names = None if given.attributes is None else [name.strip() for name in given.attributes.split(",")]
        text = pair_prompt(load_vocabulary(given.vocabulary), given.style, names)
        if given.supervisor is None:
            if given.tokens:
                raise ValueError("tokens are a supervisor's: add --supervisor CHECKPOINT")
            print(text)
            return
        from fieldmark.experiments.seen_prompt import see_prompt

        seen = see_prompt(given.supervisor, text, given.image_size)
        print(seen.as_list() if given.tokens else seen.as_text())

    return run
