"""Requests share batches and get their own vectors; the queue never grows past its limit."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fieldmark.search.encoders import EncoderInput
from fieldmark.search.service.batching import EncoderQueue
from fieldmark.search.service.config import Batching
from fieldmark.search.service.errors import Refusal


class SlowEncoder:
    """A picture's first two values as a vector; waits for `gate` before each batch; 66 is poison, 77 not a number."""

    name, fingerprint, embedding_size, reads_words = "slow", "0" * 64, 2, False
    max_text_tokens = 0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.threads: set[str] = set()

    def decode_size(self) -> int:
        return 1

    def cuts(self, text: str) -> bool:
        return False

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        self.entered.set()
        assert self.gate.wait(20)
        self.batches.append(len(items))
        self.threads.add(threading.current_thread().name)
        values = np.stack([item.picture[0, 0, :2] for item in items if item.picture is not None]).astype(np.float32)
        if (values[:, 0] == 66).any():
            raise ValueError("this picture is poison")
        if (values[:, 0] == 77).any():
            values[:] = np.nan
        return values


def item(first: int, second: int = 0) -> EncoderInput:
    return EncoderInput(np.array([[[first, second, 0]]], np.uint8))


@pytest.fixture
def encoder() -> SlowEncoder:
    return SlowEncoder()


def filled(encoder: SlowEncoder, queue: EncoderQueue, pool: ThreadPoolExecutor, values: Sequence[int]) -> list:
    """Futures of requests that wait while the encoder is held in a first one."""
    encoder.gate.clear()
    encoder.entered.clear()
    futures = [pool.submit(queue.embed, [item(1)])]
    assert encoder.entered.wait(20)
    for value in values:
        futures.append(pool.submit(queue.embed, [item(value)]))
    deadline = time.monotonic() + 20
    while queue.waiting < len(values) and time.monotonic() < deadline:
        time.sleep(0.005)
    return futures


def test_what_waits_is_embedded_together_and_everyone_gets_the_own_vector(encoder: SlowEncoder) -> None:
    seen: list[int] = []
    queue = EncoderQueue(encoder, Batching(size=8, window_ms=0), observe=lambda size, seconds: seen.append(size))
    with ThreadPoolExecutor(32) as pool:
        futures = filled(encoder, queue, pool, range(2, 22))
        encoder.gate.set()
        found = [float(future.result(20)[0, 0]) for future in futures]
    queue.close()
    assert found == list(range(1, 22))
    assert encoder.batches == [1, 8, 8, 4] == seen
    assert encoder.threads == {"encoder"}


def test_one_request_with_several_inputs_keeps_their_order(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching(size=3))
    assert queue.embed([item(v, v + 1) for v in (5, 3, 9, 1)])[:, 0].tolist() == [5, 3, 9, 1]
    assert queue.embed([]).shape == (0, 2)
    queue.close()


def test_window_collects_requests_that_come_one_after_another(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching(size=3, window_ms=5000))
    with ThreadPoolExecutor(3) as pool:
        began = time.monotonic()
        futures = [pool.submit(queue.embed, [item(v)]) for v in (1, 2, 3)]
        assert [float(future.result(20)[0, 0]) for future in futures] == [1, 2, 3]
    assert time.monotonic() - began < 4  # a full batch does not wait for its window to end
    assert encoder.batches == [3]
    queue.close()


def test_full_queue_refuses_at_once_and_says_when_to_come_back(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching(size=4, window_ms=0, queue=3))
    with ThreadPoolExecutor(8) as pool:
        futures = filled(encoder, queue, pool, [2, 3, 4])
        with pytest.raises(Refusal) as refused:
            queue.embed([item(5)])
        assert refused.value.status == 503 and 1 <= (refused.value.retry_after or 0) <= 60
        assert queue.waiting == 3
        encoder.gate.set()
        assert [float(future.result(20)[0, 0]) for future in futures] == [1, 2, 3, 4]
        assert float(queue.embed([item(5)])[0, 0]) == 5  # there is room again
    queue.close()


def test_request_with_too_many_inputs_puts_none_into_the_queue(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching(queue=3))
    with pytest.raises(Refusal, match="full"):
        queue.embed([item(v) for v in range(4)])
    assert queue.waiting == 0
    queue.close()


@pytest.mark.parametrize(("poison", "error"), [(66, ValueError), (77, ArithmeticError)])
def test_bad_input_fails_alone(encoder: SlowEncoder, poison: int, error: type[Exception]) -> None:
    queue = EncoderQueue(encoder, Batching(size=8, window_ms=0))
    with ThreadPoolExecutor(8) as pool:
        futures = filled(encoder, queue, pool, [2, poison, 4])
        encoder.gate.set()
        assert float(futures[1].result(20)[0, 0]) == 2 and float(futures[3].result(20)[0, 0]) == 4
        with pytest.raises(error):
            futures[2].result(20)
    assert float(queue.embed([item(8)])[0, 0]) == 8
    queue.close()


def test_who_waits_too_long_is_told_and_passed_over(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching(size=4, window_ms=0), wait_seconds=0.2)
    with ThreadPoolExecutor(4) as pool:
        futures = filled(encoder, queue, pool, [2])
        for future in futures:
            with pytest.raises(Refusal, match="in time"):
                future.result(20)
        encoder.gate.set()
        deadline = time.monotonic() + 20
        while queue.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
    assert float(queue.embed([item(3)])[0, 0]) == 3
    assert 2 not in encoder.batches  # nobody computed for who had gone
    queue.close()


def test_other_work_takes_its_turn_in_the_same_thread(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching())
    assert queue.take_turn(lambda: threading.current_thread().name) == "encoder"
    with pytest.raises(ZeroDivisionError):
        queue.take_turn(lambda: 1 / 0)
    assert float(queue.embed([item(3)])[0, 0]) == 3
    queue.close()


def test_closing_ends_what_waits(encoder: SlowEncoder) -> None:
    queue = EncoderQueue(encoder, Batching(size=1, window_ms=0))
    with ThreadPoolExecutor(4) as pool:
        futures = filled(encoder, queue, pool, [2])
        closing = pool.submit(queue.close)
        with pytest.raises(Refusal, match="stopped"):
            futures[1].result(20)
        encoder.gate.set()
        assert float(futures[0].result(20)[0, 0]) == 1  # what was begun is finished
        closing.result(20)
    with pytest.raises(Refusal):
        queue.embed([item(1)])
