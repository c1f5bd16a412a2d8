"""What a training step needs before it is started: memory by part, arithmetic and time by phase.

This room is in `experiments` because it reads the run's configuration (`training.config`) and the supervisor's
(`models`), and nothing below may import it. `geometry` and `workload` read; `memory` and `flops` are pure arithmetic on
what they return; `plan` puts the two beside a GPU.
"""
