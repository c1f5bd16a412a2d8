"""`fieldmark train metric`: tower and pooler under a metric loss alone — what a user would do without SAGA."""

from typing import Any

from fieldmark.training.config import MetricConfig
from fieldmark.training.session import Session


def train_metric(config: MetricConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train and evaluate once on the test classes.

    Returns what results.json holds. Raises ValueError before the first step for bad input, NonFiniteLoss during it.
    """
    session = Session(config, resume=resume, overwrite=overwrite)
    with session:
        while session.progress.step < session.total_steps:
            session.zero_grad()
            with session.log.phase("pictures"):
                batch = session.next_batch()
            with session.log.phase("metric"):
                pooled = session.encoder.pool(session.tokens(batch.images))
                loss = session.metric_loss(pooled.embedding, batch.labels)
                loss.backward()
                figures = session.update({"metric": loss.item()})
            session.after_step({"loss": loss.item(), **figures})
    return session.finish()
