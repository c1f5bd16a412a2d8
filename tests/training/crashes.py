"""A training that breaks off and goes on, for the tests that compare it with an unbroken one."""

import pytest

from fieldmark.training.config import SagaConfig
from fieldmark.training.saga import Saga, train_saga


def crash_in_step_three_and_resume(config: SagaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a run as its third step begins, then resume it to its end."""
    real, calls = Saga.step, []

    def crash(self):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Saga, "step", crash)
    with pytest.raises(KeyboardInterrupt):
        train_saga(config)
    monkeypatch.setattr(Saga, "step", real)
    train_saga(config, resume=True)
