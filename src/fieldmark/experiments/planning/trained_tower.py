"""What of the tower is trained, in numbers and bytes: the part of a plan that `model.tuning` decides."""

from dataclasses import dataclass

from torch import nn

from fieldmark.experiments.planning.families import TowerFacts, facts_of_last
from fieldmark.models.tuning import tower_blocks
from fieldmark.models.vision_tokens import VisionTower
from fieldmark.training.config import ModelConfig


@dataclass(frozen=True)
class TrainedTower:
    """The trained part of a tower.

    facts: of the blocks from the first trained one to the end, and of the mergers after them; only these keep
    activations. parameters: numbers that are trained, adapters' included. adapters: numbers that LoRA adds, always
    float32. adapter_inputs, adapter_middle: numbers per row that the adapters of one block are given, and that stand
    between their two matrices. dropout: whether adapters drop some of their inputs. weight_bytes: of one of the tower's
    own weights. autocast: these are float32 and the products are not. checkpoint: blocks are computed again in the
    backward pass. full: every weight is trained.
    """

    facts: TowerFacts
    parameters: int
    adapters: int
    adapter_inputs: int
    adapter_middle: int
    dropout: bool
    weight_bytes: int
    autocast: bool
    checkpoint: bool
    full: bool

    @property
    def layers(self) -> int:
        """Blocks from the first trained one to the end."""
        return self.facts.depth

    @property
    def trained_bytes(self) -> float:
        """Of what is trained; as many of its gradients."""
        return self.parameters * (4.0 if self.adapters else self.weight_bytes)


def read_trained_tower(tower: VisionTower, facts: TowerFacts, config: ModelConfig, dtype_bytes: int) -> TrainedTower:
    """Counts of a tower that is as it was loaded (meta weights will do). facts: of the whole tower.

    Raises:
        ValueError: more blocks are to be trained than there are.
    """
    tuning, blocks, autocast = config.tuning, tower_blocks(tower), config.tower_precision == "bfloat16_autocast"
    trained = adapters = inputs = middle = layers = 0
    if tuning.method == "full":
        trained, layers = _numbers(tower), len(blocks)
    elif tuning.method == "lora":
        linear = [m for m in blocks.modules() if type(m) is nn.Linear]
        trained = adapters = tuning.rank * sum(m.in_features + m.out_features for m in linear)
        inputs, middle, layers = sum(m.in_features for m in linear), tuning.rank * len(linear), len(blocks)
    elif tuning.method == "last_blocks":
        if tuning.blocks > len(blocks):
            raise ValueError(f"tuning.blocks is {tuning.blocks}, but the tower has {len(blocks)} blocks")
        trained, layers = sum(_numbers(block) for block in list(blocks)[-tuning.blocks :]), tuning.blocks
    return TrainedTower(
        facts=facts_of_last(facts, tower.model, layers),
        parameters=trained,
        adapters=adapters,
        adapter_inputs=inputs // len(blocks),
        adapter_middle=middle // len(blocks),
        dropout=tuning.method == "lora" and tuning.dropout > 0,
        weight_bytes=4 if autocast else dtype_bytes,
        autocast=autocast,
        checkpoint=config.tower_checkpoint,
        full=tuning.method == "full",
    )


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
