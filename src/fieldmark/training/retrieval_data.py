"""Which queries and candidates a method of retrieval is trained on."""

from dataclasses import dataclass
from pathlib import Path

from fieldmark.data.multimodal.mbeir import HeldOut, read_mbeir_training
from fieldmark.data.multimodal.nli import nli_task, read_nli
from fieldmark.data.retrieval import RetrievalTask


@dataclass(frozen=True)
class RetrievalDataConfig:
    """Training queries and the pool of their candidates."""

    path: str = ""
    """A folder in M-BEIR's layout (its union training file is read), or a CSV of NLI triplets (sent0, sent1,
    hard_neg)."""
    dataset: str | None = None
    """Take this data set's own training file instead of the union of all."""
    held_out_tasks: tuple[int, ...] = ()
    """Numbers of M-BEIR tasks that are not trained on, as 4 for image → image."""
    held_out_datasets: tuple[str, ...] = ()
    """Names of M-BEIR data sets that are not trained on, as nights."""
    workers: int = 1
    """Processes that decode pictures ahead of the step; 0 decodes in line."""


def load_training_task(config: RetrievalDataConfig) -> RetrievalTask:
    """The training queries that a configuration names.

    Raises:
        ValueError: no path, nothing there, or what the reader refuses.
    """
    if not config.path:
        raise ValueError("no data given: set data.path (on the command line --data PATH)")
    path = Path(config.path)
    if path.is_file() and path.suffix.lower() == ".csv":
        if config.dataset is not None or config.held_out_tasks or config.held_out_datasets:
            raise ValueError(f"{path} is a CSV of triplets: data.dataset and data.held_out_… are for M-BEIR")
        return nli_task(read_nli(path), path.stem)
    if not path.is_dir():
        raise ValueError(f"{path} is neither a folder in M-BEIR's layout nor a .csv of NLI triplets")
    held_out = HeldOut(config.held_out_tasks, config.held_out_datasets)
    return read_mbeir_training(path, held_out=held_out, dataset=config.dataset)
