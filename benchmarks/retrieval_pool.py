"""Evaluating queries against a pool of 100,000 candidates, against the plain way: time, peak memory, agreement.

    python benchmarks/retrieval_pool.py [--short] [--json PATH]

Workload: 2,000 queries, 100,000 candidates x 512 (short: 300 and 20,000), one to three relevant candidates of each
query, graded 1 to 3. Metrics: Recall@1, 5 and 10, nDCG@10, MRR over the whole pool.

    fieldmark   evaluation.ranking.ranking_metrics: chunked scores, exact top k, exact ranks of first hits
    plain       torch: the full score matrix, argsort of every row, metrics read from it
    pytrec      pytrec_eval (trec_eval) on the 1,000 best of each query (topk of the full score matrix), as
                retrieval papers use it: MRR is then cut at 1,000. Skipped, and said so, if it is not installed

Every side runs alone in its own process, with all cores, after a small warm-up call; the best of the repeats
counts. Memory is the peak resident size during the call, above what was resident before it (Linux). On a busy
machine threads wait for each other and the figures mean little: the load is recorded, and the ratio of
processor seconds suffers less.
"""

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

from _measuring import measure_calls, run_side, write_json

WIDTH = 512
SIDES = {
    "fieldmark": "fieldmark.evaluation.ranking.ranking_metrics",
    "plain": "full score matrix, argsort",
    "pytrec": "full score matrix, topk 1000, pytrec_eval",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="300 queries, 20,000 candidates, under a minute")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--repeats", type=int, default=3, help="measured calls per side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="per side (default: all cores)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    n, m = (300, 20_000) if arguments.short else (2_000, 100_000)
    if arguments.side:
        print(json.dumps(measure(arguments.side, n, m, arguments.repeats)))
        return

    load = os.getloadavg()[0]
    print(f"{n:,} queries, {m:,} candidates x {WIDTH}, {arguments.threads} threads, best of {arguments.repeats}")
    if load > 0.5:
        print(f"  the machine is busy (load {load:.1f}): times below are not to be quoted")
    sides = {}
    for side, title in SIDES.items():
        if side == "pytrec" and importlib.util.find_spec("pytrec_eval") is None:
            print("  pytrec_eval is not installed (pip install pytrec-eval-terrier): not measured")
            continue
        asked = ["--side", side, "--repeats", str(arguments.repeats), *(["--short"] if arguments.short else [])]
        figures = sides[side] = run_side(__file__, asked, arguments.threads)
        print(
            f"  {title:50s} {figures['seconds']:8.2f} s "
            f"{figures['processor_seconds']:8.2f} cpu-s {figures['peak_mb']:6.0f} MB"
        )
    ours, plain = sides["fieldmark"], sides["plain"]
    results = {
        "workload": {"queries": n, "candidates": m, "width": WIDTH, "repeats": arguments.repeats},
        "threads": arguments.threads,
        "load_before": load,
        "sides": sides,
        "ratio": plain["seconds"] / ours["seconds"],
        "processor_ratio": plain["processor_seconds"] / ours["processor_seconds"],
        "memory_ratio": plain["peak_mb"] / ours["peak_mb"],
        "largest_difference": max(
            abs(figures["metrics"][name] - value)
            for side, figures in sides.items()
            for name, value in ours["metrics"].items()
            if not (side == "pytrec" and name == "mrr")
        ),
    }
    print(f"  agreement: within {results['largest_difference']:.1e}")
    print(
        f"  ratio {results['ratio']:.2f}x against the plain way, {results['processor_ratio']:.2f}x in processor seconds"
    )
    print(f"  memory: {results['memory_ratio']:.1f}x less")
    if arguments.json:
        write_json(arguments.json, results)
    # Rounding may swap candidates that are equally far; anything larger is another metric.
    if results["largest_difference"] > 1e-3:
        raise SystemExit("the sides do not compute the same metrics")


def measure(side: str, n: int, m: int, repeats: int) -> dict:
    import torch

    generator = torch.Generator().manual_seed(0)
    pool = torch.nn.functional.normalize(torch.randn(m, WIDTH, generator=generator), dim=1)
    right = torch.stack([torch.randperm(m, generator=generator)[:3] for _ in range(n)])
    count = torch.randint(1, 4, (n,), generator=generator)
    noise = torch.randn(n, WIDTH, generator=generator)
    queries = torch.nn.functional.normalize(pool[right[:, 0]] + 0.22 * noise, dim=1)
    qrels = {f"q{i}": {f"c{c}": 3 - k for k, c in enumerate(right[i, : count[i]].tolist())} for i in range(n)}
    evaluate = evaluator(side)
    small = {query: {c: grade for c, grade in row.items() if int(c[1:]) < 5000} for query, row in qrels.items()}
    small = {query: row for query, row in list(small.items())[:2000] if row}
    rows = torch.tensor([int(query[1:]) for query in small])
    evaluate(queries[rows], pool[:5000], small)
    return measure_calls(lambda: evaluate(queries, pool, qrels), repeats)


def evaluator(side: str) -> Callable[..., dict[str, float]]:
    """(queries, pool, qrels) → metrics."""
    import numpy as np
    import torch

    from fieldmark.evaluation.ranking import index_relevance, ranking_metrics

    def ours(queries: torch.Tensor, pool: torch.Tensor, qrels: dict) -> dict[str, float]:
        relevance = index_relevance("pool", qrels, (f"c{c}" for c in range(len(pool))), qrels)
        found = ranking_metrics(queries, pool, relevance, ks=(1, 5, 10), ndcg_ks=(10,))
        recalls = {f"recall_at_{k}": value for k, value in found.recall_at_k.items()}
        return {**recalls, "ndcg_at_10": found.ndcg_at_k[10], "mrr": found.mrr}

    def plain(queries: torch.Tensor, pool: torch.Tensor, qrels: dict) -> dict[str, float]:
        order = (queries @ pool.T).argsort(dim=1, descending=True).numpy()
        discount = 1 / np.log2(np.arange(2, 12))
        firsts, ndcgs = [], []
        for row, positives in zip(order, qrels.values(), strict=True):
            grades = np.zeros(len(pool))
            for name, grade in positives.items():
                grades[int(name[1:])] = grade
            gains = grades[row]
            firsts.append(1 + int((gains > 0).argmax()))
            ideal = np.sort(list(positives.values()))[::-1]
            ndcgs.append((gains[:10] * discount).sum() / (ideal * discount[: len(ideal)]).sum())
        ranks = np.array(firsts)
        recalls = {f"recall_at_{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
        return {**recalls, "ndcg_at_10": float(np.mean(ndcgs)), "mrr": float((1 / ranks).mean())}

    def pytrec(queries: torch.Tensor, pool: torch.Tensor, qrels: dict) -> dict[str, float]:
        import pytrec_eval

        scores, places = (queries @ pool.T).topk(1000, dim=1)
        run = {
            query: {f"c{c}": score for c, score in zip(columns, values, strict=True)}
            for query, columns, values in zip(qrels, places.tolist(), scores.tolist(), strict=True)
        }
        wanted = {"recip_rank", "ndcg_cut.10", "success.1,5,10"}
        found = list(pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run).values())
        names = {"ndcg_at_10": "ndcg_cut_10", "mrr": "recip_rank"} | {
            f"recall_at_{k}": f"success_{k}" for k in (1, 5, 10)
        }
        return {ours: float(np.mean([one[theirs] for one in found])) for ours, theirs in names.items()}

    return {"fieldmark": ours, "plain": plain, "pytrec": pytrec}[side]


if __name__ == "__main__":
    main()
