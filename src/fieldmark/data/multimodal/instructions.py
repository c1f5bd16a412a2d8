"""M-BEIR's instructions: for each data set and direction a few wordings of what kind of candidate is wanted."""

from dataclasses import dataclass
from pathlib import Path

from fieldmark.data.multimodal.mbeir_layout import FIRST_OWN_NUMBER, TASKS, dataset_name, instructions_file
from fieldmark.data.retrieval import Modality

_HEADER = ("query_modality", "cand_modality", "dataset_name", "dataset_id")


@dataclass(frozen=True)
class Instructions:
    """Wordings by (number of the data set, modality of the query, of the candidate)."""

    path: Path
    wordings: dict[tuple[int, Modality, Modality], tuple[str, ...]]
    dataset_names: dict[int, str]
    """Number → name as the file spells it, in lower case."""

    def of_task(self, number: int, task: int) -> tuple[str, ...]:
        """The wordings for a data set's task, at least one; evaluation uses the first.

        Raises:
            ValueError: the file has none.
        """
        found = self.wordings.get((number, *TASKS[task]))
        if not found:
            raise ValueError(
                f"{self.path} has no instruction for data set {number} and {TASKS[task][0]} → {TASKS[task][1]} "
                "(columns: query modality, candidate modality, name, number, then the wordings): add a line"
            )
        return found

    def number_of(self, dataset: str) -> int | None:
        """Number of the data set of this name, or None."""
        return next((number for number, name in self.dataset_names.items() if name == dataset), None)

    def name_of(self, number: int) -> str:
        """Name of the data set, its number as text if it is unknown."""
        if number < FIRST_OWN_NUMBER and (known := dataset_name(number)) is not None:
            return known
        return self.dataset_names.get(number, str(number))


def read_instructions(root: Path) -> Instructions:
    """Reads ``instructions/query_instructions.tsv``.

    Raises:
        ValueError: it is missing, or a line has no wording or an unknown modality.
    """
    path = instructions_file(root)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it belongs to every folder in M-BEIR's layout") from error
    wordings: dict[tuple[int, Modality, Modality], tuple[str, ...]] = {}
    names: dict[int, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        prompts = tuple(cell for cell in cells[4:] if cell)
        if len(cells) < 5 or not prompts or not cells[3].isdecimal():
            raise ValueError(
                f"{path}, line {number}: needs {', '.join(_HEADER)} and at least one wording, got {line!r}"
            )
        dataset = int(cells[3])
        wordings[(dataset, as_modality(cells[0], path, number), as_modality(cells[1], path, number))] = prompts
        names[dataset] = cells[2].lower()
    return Instructions(path, wordings, names)


def as_modality(text: str, path: Path, number: int) -> Modality:
    """A modality as files spell it, "text,image" included.

    Raises:
        ValueError: it is none.
    """
    parts = frozenset(part.strip() for part in text.split(","))
    known: dict[frozenset[str], Modality] = {
        frozenset({"text"}): "text",
        frozenset({"image"}): "image",
        frozenset({"image", "text"}): "image,text",
    }
    if parts not in known:
        raise ValueError(f'{path}, line {number}: a modality is text, image or "image,text", got {text!r}')
    return known[parts]


def instructions_text(rows: list[tuple[Modality, Modality, str, int, tuple[str, ...]]]) -> str:
    """The file's content: query modality, candidate modality, name, number, wordings of each row."""
    width = max(len(row[4]) for row in rows)
    lines = ["\t".join((*_HEADER, *(f"prompt_{i + 1}" for i in range(width))))]
    for query, candidate, name, number, prompts in rows:
        lines.append("\t".join((query, candidate, name, str(number), *(" ".join(p.split()) for p in prompts))))
    return "\n".join(lines) + "\n"
