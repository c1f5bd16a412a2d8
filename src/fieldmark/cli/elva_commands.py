"""The commands of ELVA's third stage, and of its demo."""

from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("train elva", "train a universal embedder by the rankings of its own summaries (ELVA, stage 3)", "--resume")
def _train_elva(options: "Options") -> Run:
    """The model writes several summaries of each query; the state at the [RET] that ends a summary is an
    embedding. Each is rewarded for how it ranks the query's positive above its negatives (GRPO), and
    held to the model before the run by KL. A LoRA adapter is trained; the embedder is saved in
    RUN/encoder.

    Starts from any embedder: a run of `train contrastive`, a peft adapter, a merged checkpoint; one
    trained to answer in one word, too. Hard negatives come from `data mine`; without them, ask for
    random ones alone. A reward of your own is one function: --reward.function package.module:function

    examples:
      fieldmark train elva --data M-BEIR --base runs/stage2 --mined runs/stage2/mined --run runs/stage3
      fieldmark train elva --data my/data --base models/qwen2-vl --run runs/stage3 \\
        --negatives.hard 0 --negatives.random 100 --candidates.refresh_every 8
    """
    from fieldmark.training.elva_config import ElvaConfig

    options.config(ElvaConfig, {"data": "data.path", "base": "model.base", "mined": "negatives.mined"})
    options.flag("--resume", "Continue the run of this folder from its last checkpoint; start it if there is none.")
    options.flag("--overwrite", "Delete the run in this folder and start again.")

    def run(given: "Given") -> None:
        from fieldmark.training.elva import train_elva

        results = train_elva(given.config, resume=given.resume, overwrite=given.overwrite)
        best, folder = results["validation"], given.config.run
        print(
            f"\n{results['steps']} steps, {results['queries_seen']} queries seen "
            f"({results['training_queries']} there are)"
        )
        print(f"held-out R@1: {100 * best['recall_at_1']:.1f}, best at step {best['best_step']}")
        print(f"\nrun: {folder}\nembedder: {folder}/encoder")

    return run


@command("demo-elva", "ELVA on the bundled world: stage 2, stage 3 and their controls, with a report", "same command")
def _demo_elva(options: "Options") -> Run:
    """Draws birds as a retrieval collection, mines negatives, trains stage 3, its control and the contrastive
    stage continued, measures them and the start on queries of one to four field marks, and writes
    report.html and results.json. At most a quarter of an hour on two cores.

    example:
      fieldmark demo-elva --out runs/demo-elva
    """
    from fieldmark.experiments.elva.demo import DemoElvaConfig

    options.config(DemoElvaConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.elva.demo import run_demo_elva

        run_demo_elva(given.config)

    return run
