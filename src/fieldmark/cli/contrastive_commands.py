"""The commands of contrastive training: the training itself, and the mining of its negatives."""

from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command(
    "train contrastive", "train a universal embedder on queries and their candidates (ELVA, stages 1 and 2)", "--resume"
)
def _train_contrastive(options: "Options") -> Run:
    """Queries and candidates, each text, picture or both, are embedded by one multimodal LLM; InfoNCE over the
    candidates of a batch pulls them together. GradCache makes the batch as large as one likes in the
    memory of a chunk. A LoRA adapter is trained; the embedder is saved in RUN/encoder.

    The data are a folder in M-BEIR's layout, or a CSV of NLI triplets for language-only
    pre-training. Several processes, each with its part of every batch, are started by torchrun.

    examples:
      fieldmark train contrastive --data nli.csv --base models/qwen2-vl --run runs/stage1 --batch_size 576 \\
        --optimiser.lr 4e-5 --schedule.epochs 2 --hard_negatives 1
      fieldmark train contrastive --data M-BEIR --base runs/stage1 --run runs/stage2 \\
        --model.adapter.rank 128 --model.adapter.alpha 256
      torchrun --nproc_per_node 8 -m fieldmark train contrastive --config stage2.yaml --model.device cuda
    """
    from fieldmark.training.contrastive_config import ContrastiveConfig

    options.config(ContrastiveConfig, {"data": "data.path", "base": "model.base", "rehearsal": "rehearsal.path"})
    options.flag("--resume", "Continue the run of this folder from its last checkpoint; start it if there is none.")
    options.flag("--overwrite", "Delete the run in this folder and start again.")

    def run(given: "Given") -> None:
        from fieldmark.training.contrastive import train_contrastive

        results = train_contrastive(given.config, resume=given.resume, overwrite=given.overwrite)
        best, folder = results["validation"], given.config.run
        seen, there_are = results["queries_seen"], results["training_queries"]
        print(f"\n{results['steps']} steps; {seen} queries seen, of {there_are} there are")
        print(f"held-out R@1: {100 * best['recall_at_1']:.1f}, best at step {best['best_step']}")
        print(f"\nrun: {folder}\nembedder: {folder}/encoder")
        if str(given.config.data.path).lower().endswith(".csv"):
            print(f"next: fieldmark train contrastive --base {folder} --data COLLECTION --run FOLDER")
        else:
            print(f"next: fieldmark data mine --embedder {folder} --data {given.config.data.path}")

    return run


@command("data mine", "hard and random negatives for training queries, found with a trained embedder")
def _data_mine(options: "Options") -> Run:
    """Embeds the training queries and the whole pool and searches exactly. Per query, candidates that are known
    to be right, or nearer than the threshold, are passed over; the next 50 are its hard negatives, 50
    more are drawn at random. Writes a folder, RUN/mined unless told otherwise, with the embedder's
    fingerprint and the configuration beside the ids.

    examples:
      fieldmark data mine --embedder runs/stage2 --data M-BEIR
      fieldmark data mine --embedder runs/stage2 --data M-BEIR --queries 11000 --threshold 0.8 --out mined/a
    """
    from fieldmark.experiments.mining import MiningConfig

    options.config(MiningConfig, {"data": "data.path"})

    def run(given: "Given") -> None:
        from fieldmark.experiments.mining import mine_negatives

        print(mine_negatives(given.config).as_text())

    return run


@command("data summaries", "summaries of training queries and candidates, to be rehearsed in contrastive training")
def _data_summaries(options: "Options") -> Run:
    """Lets a model sum up training queries and candidates, before contrastive training makes it forget how to; or
    reads summaries off a collection that lists the grains of its queries, for a model that never wrote any.
    `fieldmark train contrastive --rehearsal FILE` keeps or teaches the ability that ELVA's third stage needs.

    examples:
      fieldmark data summaries --embedder models/qwen2-vl --data M-BEIR --out summaries.jsonl
      fieldmark data summaries --annotated true --drafts 2 --data worlds/emoji --out summaries.jsonl
    """
    from fieldmark.experiments.summarising import SummariesConfig

    options.config(SummariesConfig, {"data": "data.path"})

    def run(given: "Given") -> None:
        from fieldmark.experiments.summarising import write_summaries

        print(write_summaries(given.config).as_text())

    return run


@command("data words", "frequent words of training data, to become tokens of a tiny model")
def _data_words(options: "Options") -> Run:
    """Lists the frequent words of training queries, instructions, grains and candidates. `fieldmark train contrastive
    --model.new_words FILE --model.train_words true` makes them tokens, for a tiny model whose tokenizer would spell
    them letter by letter. Large models know their words.

    example:
      fieldmark data words --data worlds/emoji --out words.txt
    """
    from fieldmark.experiments.word_listing import WordsConfig

    options.config(WordsConfig, {"data": "data.path"})

    def run(given: "Given") -> None:
        from fieldmark.experiments.word_listing import write_words

        print(write_words(given.config))

    return run
