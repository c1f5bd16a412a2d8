"""The commands that make an index, look after it, and tell about it."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options
    from fieldmark.search.maintenance import IndexInfo


@command("index build", "index pictures for search, or bring an index up to date", "same command")
def _index_build(options: "Options") -> Run:
    """Embeds the pictures of a folder, or of a .jsonl or .parquet file that lists them with metadata
    columns, and keeps the embeddings in a folder that `fieldmark search` and `fieldmark serve` read.
    Given again, it embeds new and changed pictures only, wherever it was interrupted. Pictures that
    cannot be read stop nothing: INDEX/failures.jsonl tells each with its reason. docs/search.md tells more.

    examples:
      fieldmark index build --encoder runs/mine --images shop/pictures --index shop.index
      fieldmark index build --encoder runs/mine --images shop/articles.jsonl --index shop.index --prune
    """
    from fieldmark.search.build import BuildConfig

    options.config(BuildConfig)

    def run(given: "Given") -> None:
        from fieldmark.search.build import build_index
        from fieldmark.search.maintenance import FAILURES
        from fieldmark.search.progress import BuildProgress

        def loading() -> None:
            print("loading the encoder …", file=sys.stderr, flush=True)  # seconds, before the first picture

        with BuildProgress() as progress:
            report = build_index(given.config, progress=progress, loading=loading)
        parts = {"added": report.added, "changed": report.changed, "with new metadata": report.relabelled}
        parts |= {"unchanged": report.unchanged, "removed": report.removed, "failed": report.failed}
        said = [f"{count:,} {what}" for what, count in parts.items() if count]
        if report.kept:
            rows = "its row is kept" if report.kept == 1 else "their rows are kept"
            said.append(f"{report.kept:,} of them indexed before: {rows}")
        print(", ".join(said) or "nothing to do")
        if report.failed:
            print(f"why they failed: {Path(given.config.index) / FAILURES}")
        embedded = report.added + report.changed
        pace = f" ({embedded / report.seconds:.1f} embedded a second)" if embedded and report.seconds else ""
        print(f"{report.rows:,} pictures in {given.config.index}, {report.seconds:.1f} s{pace}")
        print(f"next: fieldmark search --index {given.config.index} --image PICTURE")

    return run


@command("index info", "what is in an index: rows, encoder, columns, size, how it is searched")
def _index_info(options: "Options") -> Run:
    """Tells how many pictures an index has, which encoder made it, where the pictures lie, which columns
    can stand in a filter, and whether it is searched exactly or approximately. With --measure_recall,
    how many of the true nearest neighbours the approximate search finds.

    example:
      fieldmark index info --index shop.index --measure_recall
    """
    options.add("--index", "Folder of the index.", required=True)
    options.flag("--measure_recall", "Compare approximate with exact search, for 200 rows of the index as queries.")
    options.flag("--json", "Print JSON instead of a table.")

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import as_text
        from fieldmark.search.index import Index
        from fieldmark.search.maintenance import describe
        from fieldmark.search.recall import measure_recall
        from fieldmark.training.run_folder import to_plain

        index = Index.open(given.index)
        info = describe(index)
        recall = measure_recall(index) if given.measure_recall else None
        if given.json:
            print(as_text(to_plain({**dataclasses.asdict(info), "recall": recall})))
        else:
            print(_as_table(info))
            if recall is not None:
                print(recall.as_text())

    return run


def _as_table(info: "IndexInfo") -> str:
    from fieldmark.search.maintenance import FAILURES

    see = f": {Path(info.path) / FAILURES}" if info.failures else ""
    approximate = f"{info.vector_index}, {info.rows_in_vector_index:,} rows in it"
    lines = {
        "pictures": f"{info.rows:,}, relative to {info.root}",
        "encoder": f"{info.encoder_name} ({info.encoder_fingerprint[:12]}), {info.embedding_size} numbers",
        "columns": ", ".join(f"{name} ({kind})" for name, kind in info.metadata.items()) or "none",
        "search": "exact: every row is compared" if info.vector_index == "exact" else approximate,
        "on disk": f"{info.bytes_on_disk / 2**20:,.1f} MiB in {info.fragments} fragments, version {info.version}",
        "failed": f"{info.failures:,} pictures at the last build{see}",
    }
    return "\n".join(f"{name + ':':<10} {text}" for name, text in lines.items())


@command("index verify", "read every picture again, and recompute a sample of the embeddings")
def _index_verify(options: "Options") -> Run:
    """Compares every picture with the hash in its row, holds that ids are unique and belong to their paths
    and that embeddings have unit length, and computes a random sample of embeddings again. Ends with
    code 2 if anything is wrong.

    example:
      fieldmark index verify --index shop.index --workers 2
    """
    options.add("--index", "Folder of the index.", required=True)
    options.add("--encoder", "Folder of the encoder, if it does not lie where it lay at the build.", str | None)
    options.add("--sample", "Embeddings to compute again; 0 needs no encoder.", int, 64)
    options.add("--seed", "Chooses the sample.", int, 0)
    options.add("--workers", "Processes that read; 0 reads in line.", int, 1)
    options.add("--device", "Where the encoder computes: cpu, cuda, …", str, "cpu")

    def run(given: "Given") -> None:
        import numpy as np
        from tqdm import tqdm

        from fieldmark.cli.printing import printable
        from fieldmark.search.encoders import load_search_encoder
        from fieldmark.search.index import Index
        from fieldmark.search.verify import REMEDIES, verify_index

        index = Index.open(given.index)
        encoder = load_search_encoder(given.encoder or index.encoder_name, given.device) if given.sample else None
        with tqdm(total=len(index), unit=" pictures", disable=None, leave=False) as bar:
            found = verify_index(
                index,
                encoder,
                np.random.default_rng(given.seed),
                sample=given.sample,
                workers=given.workers,
                progress=lambda done, total: bar.update(done - bar.n),
            )
        for problem in found.problems:
            print(f"{problem.kind}: {printable(problem.path)} ({problem.id}): {problem.reason}")
        print(
            f"{found.rows:,} rows, {found.recomputed} embeddings computed again (lowest cosine "
            f"{found.worst_similarity:.6f})"
        )
        if not found.good:
            counts = ", ".join(f"{count:,} {kind}" for kind, count in found.counts.items())
            remedies = "".join(f"\n  {remedy}" for kind, remedy in REMEDIES.items() if kind in found.counts)
            raise ValueError(f"{given.index} is not as it should be: {counts}{remedies}")
        print("all is well")

    return run


@command("index compact", "merge small files, remove old versions, build the approximate index anew", "same command")
def _index_compact(options: "Options") -> Run:
    """Merges what many small builds left, removes old versions and what killed processes left, and with
    --rebuild chooses and builds the search index anew. A search that runs meanwhile goes on; versions
    younger than --keep_minutes stay for it.

    examples:
      fieldmark index compact --index shop.index
      fieldmark index compact --index shop.index --rebuild --vectors.kind approximate --vectors.m 32
    """
    from fieldmark.search.maintenance import CompactConfig

    options.config(CompactConfig)

    def run(given: "Given") -> None:
        from fieldmark.search.maintenance import run_compact

        done = run_compact(given.config)
        print(
            f"{done.fragments_before} → {done.fragments_after} fragments, "
            f"{done.bytes_before / 2**20:,.1f} → {done.bytes_after / 2**20:,.1f} MiB"
        )
        if given.config.keep_minutes:
            print(
                f"Versions of the last {given.config.keep_minutes:g} minutes are kept for searches that are under way; "
                "--keep_minutes 0 frees their room."
            )

    return run


@command("index export", "write the rows of an index to a .parquet or .jsonl file", "same command")
def _index_export(options: "Options") -> Run:
    """Writes id, path, size, hash, width, height, the metadata columns and the embedding of each row.

    examples:
      fieldmark index export --index shop.index --out rows.parquet
      fieldmark index export --index shop.index --out gulls.jsonl --where "genus = 'Larus'" --no_embeddings
    """
    options.add("--index", "Folder of the index.", required=True)
    options.add("--out", "The file; its ending says the format.", required=True)
    options.add("--where", "A condition on columns, such as: genus = 'Corvus' AND year >= 2020.", str | None)
    options.flag("--no_embeddings", "Leave the embeddings out.")

    def run(given: "Given") -> None:
        from fieldmark.search.export import export_rows
        from fieldmark.search.index import Index
        from fieldmark.search.queries import check_where

        index = Index.open(given.index)
        where = check_where(index, given.where)
        count = export_rows(index, Path(given.out), where=where, embeddings=not given.no_embeddings)
        print(f"{count:,} rows: {given.out}")

    return run
