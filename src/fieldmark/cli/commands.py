"""The commands. Each declares its options and returns what runs it: one call, and what it prints.

Docstrings are what `--help` shows. Nothing heavy is imported before a command is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options

Run = Callable[["Given"], None]
Resume = Literal["--resume", "same command", "never"]

DATA_ALIASES = {"data": "data.path", "supervisor": "model.supervisor", "skip_bad": "data.skip_bad"}


@dataclass(frozen=True)
class Command:
    """One command: words that call it, a line about it, help, options, how to go on after Ctrl-C."""

    words: str
    summary: str
    description: str
    declare: Callable[["Options"], Run]
    resume: Resume


COMMANDS: dict[str, Command] = {}


def command(words: str, summary: str, resume: Resume = "never") -> Callable[[Callable[["Options"], Run]], None]:
    """Decorator: register a command."""

    def register(declare: Callable[["Options"], Run]) -> None:
        lines = (declare.__doc__ or "").strip().splitlines()
        description = "\n".join(line.removeprefix("    ") for line in lines)
        COMMANDS[words] = Command(words, summary, description, declare, resume)

    return register


@command("demo", "train, compare and report on the bundled picture world, without a GPU", "same command")
def _demo(options: "Options") -> Run:
    """Draws a world of birds, trains SAGA, its control, its ceiling and the usual metric loss on half
    of the species, tests on the other half, and writes report.html and results.json. At most 20
    minutes on two cores.

    example:
      fieldmark demo --out runs/demo
    """
    from fieldmark.experiments.demo import DemoConfig

    options.config(DemoConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.demo import run_demo

        run_demo(given.config)

    return run


@command("data inspect", "what is in a folder of pictures: classes, sizes, duplicates, odd files")
def _data_inspect(options: "Options") -> Run:
    """Reads a labelled collection (class folders, imagefolder or parquet) picture by picture and tells
    its classes, counts, sizes, duplicates across splits, and every file that cannot be decoded,
    with the reason.

    With the name of a benchmark (cub, cars, aircraft, inat) and --root, the official archive, packed
    or extracted, must have the published number of classes and pictures in both halves; otherwise
    the difference is told and nothing is decoded.

    examples:
      fieldmark data inspect my/folders --workers 2
      fieldmark data inspect cub --root downloads/CUB_200_2011.tgz
    """
    options.add("path", "The collection; or cub, cars, aircraft, inat.")
    options.add("--root", "Folder or archive of the benchmark that is named.", str | None)
    options.add("--workers", "Processes that decode; 0 decodes in line.", int, 1)
    options.flag("--json", "Print JSON instead of a table.")

    def run(given: "Given") -> None:
        from fieldmark.data.benchmarks.catalogue import BENCHMARKS, find_benchmark
        from fieldmark.data.benchmarks.inspection import inspect_benchmark
        from fieldmark.data.inspection import inspect_collection

        if given.root is not None:
            if given.path not in BENCHMARKS:
                raise ValueError(f"there is no benchmark {given.path!r}: --root goes with {', '.join(BENCHMARKS)}")
            found = inspect_benchmark(BENCHMARKS[given.path], Path(given.root), workers=given.workers)
            print(found.as_json() if given.json else found.as_text())
            return
        path = Path(given.path)
        if given.path in BENCHMARKS and not path.exists():
            raise ValueError(f"say where {given.path} lies: fieldmark data inspect {given.path} --root PATH")
        inspection = inspect_collection(path, workers=given.workers)
        print(inspection.as_json() if given.json else inspection.as_text())
        benchmark = find_benchmark(path)
        if benchmark is not None and not given.json:
            print(f"This is {benchmark.title}. Is it complete? fieldmark data inspect {benchmark.key} --root {path}")

    return run


@command("supervisor check", "is this multimodal LLM worth training with, on these pictures?")
def _supervisor_check(options: "Options") -> Run:
    """Asks the supervisor about pairs of training pictures, before hours of training: how often its
    verdicts are right for same, random and look-alike pairs, how many groups of rollouts disagree
    (only those teach), how many answers cannot be read, and how large the gradients are. Where true
    descriptions exist, also whether the reward points where they do.

    The configuration of `fieldmark train saga` can be given as it is; what the check does not need
    is passed over.

    example:
      fieldmark supervisor check --data my/folders --supervisor models/qwen3-vl --rollouts.vocabulary birds
    """
    from fieldmark.experiments.supervisor import SupervisorCheckRun
    from fieldmark.training.config import SagaConfig

    options.config(SupervisorCheckRun, DATA_ALIASES, ignored=SagaConfig.__dataclass_fields__)
    options.add("--json", "Also write the findings to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.supervisor import run_supervisor_check

        report = run_supervisor_check(given.config)
        print(report.as_text())
        if report.metric_gradient_norm is not None:
            norms = {kind: r.gradient_norm for kind, r in report.by_type.items() if r.gradient_norm is not None}
            shown = ", ".join(f"policy on {kind} pairs {norm:.3g}" for kind, norm in norms.items())
            print(f"\nnorm of the gradient at the tower: metric loss {report.metric_gradient_norm:.3g}; {shown}")
        write_json(given.json, report.as_json())

    return run


def _declare_training(options: "Options", config: type) -> None:
    options.config(config, DATA_ALIASES)
    options.flag("--resume", "Continue the run of this folder from its last checkpoint; start it if there is none.")
    options.flag("--overwrite", "Delete the run in this folder and start again.")


@command("train saga", "train with the verdicts of a multimodal LLM as reward", "--resume")
def _train_saga(options: "Options") -> Run:
    """SAGA: a metric loss, plus the supervisor's verdicts on pairs as reward (GRPO), plus alignment of
    the pooler with where the supervisor looks. Classes are split into training, validation and
    test; the encoder that is best on the validation classes is kept in RUN/encoder and read once on
    the test classes.

    examples:
      fieldmark train saga --data my/folders --supervisor Qwen/Qwen3-VL-8B-Instruct --run runs/a
      fieldmark train saga --config configs/fieldguide/saga.yaml --data worlds/birds --run runs/b
      fieldmark train saga --config saga.yaml --schedule.steps 30 --print_config > mine.yaml
    """
    from fieldmark.training.config import SagaConfig

    _declare_training(options, SagaConfig)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import trained_text
        from fieldmark.training.saga import train_saga

        results = train_saga(given.config, resume=given.resume, overwrite=given.overwrite)
        print(trained_text(given.config.run, results))

    return run


@command("train metric", "train with a metric loss alone: what one would do without SAGA", "--resume")
def _train_metric(options: "Options") -> Run:
    """Trains the same tower and pooler with a metric loss alone, with the same split, selection and
    files as `fieldmark train saga`: the baseline that SAGA has to beat.

    example:
      fieldmark train metric --data my/folders --metric.name proxy_anchor --run runs/baseline
    """
    from fieldmark.training.config import MetricConfig

    _declare_training(options, MetricConfig)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import trained_text
        from fieldmark.training.metric import train_metric

        results = train_metric(given.config, resume=given.resume, overwrite=given.overwrite)
        print(trained_text(given.config.run, results))

    return run


@command("plan", "does a run fit on a GPU, how long is a step, what to change")
def _plan(options: "Options") -> Run:
    """Reads a run's YAML and its supervisor's configuration (a local checkpoint folder; no weights are
    read) and prints the memory of a step by part, its arithmetic and time by phase, the largest
    micro-batch that fits, and, if it does not fit, what to change. Nothing is run, no GPU is needed.

    examples:
      fieldmark plan saga.yaml --gpu h200
      fieldmark plan saga.yaml --gpu mine --gpu_memory 32 --gpu_tflops 200 --set data.batch_size=32
    """
    options.add("recipe", "YAML of a run, as `fieldmark train` takes it.")
    options.add("--method", "Which training the YAML is for.", Literal["saga", "metric"], "saga")
    options.add("--set", "KEY=VALUE: an option of the run, instead of the YAML's; once for each.", action="append")
    options.add("--gpu", "h200, h100, a100-80, a100-40, l40s, rtx4090, or another with the next two.", default="h200")
    options.add("--gpu_memory", "Its memory in GiB, instead of the table's.", float | None)
    options.add("--gpu_tflops", "Its dense peak in TFLOP/s in the run's dtype, instead of the table's.", float | None)
    options.add("--gpu_bandwidth", "Its memory bandwidth in TB/s, instead of the table's.", float | None)
    options.add("--usable", "Share of its memory that tensors can have.", float, 0.92)
    options.add("--peak_fraction", "Share of peak and bandwidth that is reached.", float, 0.4)
    options.add("--mixed", "Share of the pairs whose verdicts differ, and so contribute.", float, 0.5)
    options.add("--completion_tokens", "Mean length of a completion. Not given: rollouts.max_new_tokens.", int | None)
    options.add("--classes", "Training classes.", int, 100)
    options.add("--json", "Also write the figures to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.options import Options
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.planning.plan import Machine, make_plan
        from fieldmark.experiments.planning.workload import Assumptions
        from fieldmark.training.config import MetricConfig, SagaConfig

        config = MetricConfig if given.method == "metric" else SagaConfig
        recipe = Options(f"train {given.method}", "")
        recipe.config(config, DATA_ALIASES, ignored=SagaConfig.__dataclass_fields__)
        read = recipe.parse(["--config", given.recipe, *(f"--{one}" for one in given.set or ())])
        assert read is not None
        machine = Machine(
            given.gpu, given.gpu_memory, given.gpu_tflops, given.gpu_bandwidth, given.usable, given.peak_fraction
        )
        plan = make_plan(read.config, machine, Assumptions(given.mixed, given.completion_tokens, given.classes))
        print(plan.as_text())
        write_json(given.json, plan.as_json())

    return run


@command("evaluate", "Recall@K, MAP@R and NMI of a trained encoder on unseen classes")
def _evaluate(options: "Options") -> Run:
    """Every picture is a query, all the others are searched. Reports Recall@1/2/4/8, MAP@R,
    R-precision, NMI over three seeds of k-means, and the 95 % interval of Recall@1 (whole classes
    resampled). Test classes, unless --split says otherwise, are those that the run itself kept for
    testing.

    examples:
      fieldmark evaluate --encoder runs/a
      fieldmark evaluate --encoder runs/a --data other/folders --split all --json result.json
    """
    from fieldmark.experiments.evaluate import EvaluationConfig

    options.config(EvaluationConfig)
    options.add("--json", "Also write the figures to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import retrieval_table, write_json
        from fieldmark.experiments.evaluate import evaluate_saved

        evaluation = evaluate_saved(given.config)
        figures = evaluation.as_json()
        print(f"{evaluation.encoder} on {evaluation.data} ({evaluation.split}): {evaluation.num_classes} classes")
        print(retrieval_table(figures))
        write_json(given.json, figures)

    return run


@command("report", "one HTML file about one or several runs: figures, galleries, attention")
def _report(options: "Options") -> Run:
    """Writes one self-contained HTML file that compares finished runs on the same pictures: result
    table with intervals, curves, galleries, what the poolers and the supervisor look at,
    completions with reward and advantage. Runs of `train contrastive` and `train elva` are compared with
    each other: rankings with their summaries, ranks of near misses, attention on each part of a query, maps.

    examples:
      fieldmark report --run runs/baseline --run runs/a --out report.html --baseline baseline
      fieldmark report --run runs/stage2 --run runs/stage3 --out report.html
    """
    options.add("--run", "Folder of a finished run; once for each.", required=True, action="append")
    options.add("--out", "The file to write.", default="report.html")
    options.add(
        "--baseline",
        "Name of the folder of the run to compare with. Not given: the first metric run; of universal embedders, where "
        "the first run began.",
        str | None,
    )
    options.add("--title", "Headline.", str | None)
    options.add("--workers", "Processes that decode pictures.", int, 0)

    def run(given: "Given") -> None:
        from fieldmark.experiments.elva.run_reports import report_embedder_runs
        from fieldmark.experiments.run_reports import report_runs
        from fieldmark.experiments.saved_runs import are_embedder_runs

        runs = [Path(one) for one in given.run]
        write = report_embedder_runs if are_embedder_runs(runs) else report_runs
        title = {} if given.title is None else {"title": given.title}
        path = write(runs, Path(given.out), baseline=given.baseline, workers=given.workers, **title)
        print(f"report: {path}")

    return run
