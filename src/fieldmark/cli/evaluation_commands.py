"""The commands that evaluate a universal embedder, and that build the multi-grain benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options

_ALIASES = {"embedder": "embedder.path", "root": "data.root"}


@command("evaluate mbeir", "M-BEIR's table: Recall@K of every task, in its own pool and in the union of all")
def _evaluate_mbeir(options: "Options") -> Run:
    """Embeds the queries and pools of a folder in M-BEIR's layout, the published one or one's own, and prints
    the table in the published layout: the official Recall@K of each data set and task over the local and
    the global pool, and their average. The global pool is embedded once; the local pools are parts of it.

    examples:
      fieldmark evaluate mbeir --embedder runs/elva --root downloads/M-BEIR --json mbeir.json
      fieldmark evaluate mbeir --embedder runs/elva --root data/shop --data.pools '[local]'
    """
    from fieldmark.experiments.evaluate_embedder import MbeirEvaluation

    options.config(MbeirEvaluation, _ALIASES)
    options.add("--json", "Also write the figures, with intervals, to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.evaluate_embedder import run_mbeir

        table = run_mbeir(given.config)
        print(f"\n{table.as_text()}")
        _tell_what_was_helped(table.num_forced, table.num_cut, table.num_embedded)
        write_json(given.json, {"config": given.config, **table.as_json()})

    return run


@command("evaluate mrbench", "queries of several grains: Recall@5 by number of grains and by source")
def _evaluate_mrbench(options: "Options") -> Run:
    """Recall@5 of a benchmark that `fieldmark data mrbench` built, by number of grains and by source, with
    bootstrap intervals. Also: how far a query's embedding moves when one grain is dropped from its text,
    relative to the distance between unrelated queries; and, where the collection knows what is true of its
    candidates, how many grains the five best satisfy and where near misses stand.

    example:
      fieldmark evaluate mrbench --embedder runs/elva --root downloads/M-BEIR --benchmark bench/mrbench.jsonl
    """
    from fieldmark.experiments.evaluate_embedder import MrbenchEvaluation

    options.config(MrbenchEvaluation, {**_ALIASES, "benchmark": "data.benchmark"})
    options.add("--json", "Also write the figures to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.evaluate_embedder import run_mrbench

        result = run_mrbench(given.config)
        print(f"\n{result.as_text()}")
        write_json(given.json, {"config": given.config, **result.as_json()})

    return run


@command("evaluate video", "text to video retrieval: Recall@1, 5, 10 and the median rank")
def _evaluate_video(options: "Options") -> Run:
    """Every caption searches all videos, of which a few frames are embedded. Reads the annotation files of
    MSR-VTT and MSVD, and files in their formats.

    examples:
      fieldmark evaluate video --embedder runs/elva --annotations MSRVTT_JSFUSION_test.csv --videos videos
      fieldmark evaluate video --embedder runs/elva --annotations msvd.txt --videos videos --data.ids test.txt
    """
    from fieldmark.experiments.evaluate_embedder import VideoEvaluation

    aliases = {"embedder": "embedder.path", "annotations": "data.annotations", "videos": "data.videos"}
    options.config(VideoEvaluation, aliases)
    options.add("--json", "Also write the figures to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.evaluate_embedder import run_video

        result = run_video(given.config)
        print(f"\n{result.as_text()}")
        write_json(given.json, {"config": given.config, **result.as_json()})

    return run


@command("data mrbench", "build a benchmark of queries with several grains", "same command")
def _data_mrbench(options: "Options") -> Run:
    """Takes queries of at least two grains from a collection in M-BEIR's layout and writes OUT/mrbench.jsonl,
    a query a line with its grains, to be read and corrected. Grains come from the collection's annotations,
    or a multimodal LLM is asked for them; its answers are kept in OUT/answers.jsonl and not asked for again.

    examples:
      fieldmark data mrbench --root worlds/birds-mbeir --out bench
      fieldmark data mrbench --root downloads/M-BEIR --build.grains model --supervisor models/qwen3-vl --out bench
    """
    from fieldmark.experiments.evaluate_embedder import MrbenchBuilding

    options.config(MrbenchBuilding, {"root": "build.root", "supervisor": "model.supervisor"})
    options.add("--out", "Folder to write to.", required=True)
    options.flag("--force", "Replace a benchmark that is there. Answers are kept.")

    def run(given: "Given") -> None:
        from fieldmark.experiments.evaluate_embedder import run_mrbench_building

        run_mrbench_building(given.config, Path(given.out), force=given.force)
        path = Path(given.out) / "mrbench.jsonl"
        print(f"benchmark: {path}")
        print(f"next: fieldmark evaluate mrbench --embedder RUN --root {given.config.build.root} --benchmark {path}")

    return run


def _tell_what_was_helped(forced: int, cut: int, embedded: int) -> None:
    if forced:
        print(f"{forced} of {embedded} summaries did not end by themselves: [RET] was appended")
    if cut:
        print(f"{cut} of {embedded} texts were longer than the embedder's limit and were cut")
