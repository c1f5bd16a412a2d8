"""A run killed with SIGKILL at any moment and resumed ends with the very weights of an unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

OPTIONS = [
    "--data.image_size=96",
    "--data.batch_size=8",
    "--data.images_per_class=2",
    "--data.workers=1",
    "--model.embedding_size=32",
    "--rollouts.vocabulary=fieldguide",
    "--rollouts.attributes_per_prompt=2",
    "--rollouts.group_size=4",
    "--rollouts.temperature=1.5",
    "--rollouts.max_new_tokens=48",
    "--pairs.pairs_per_round=4",
    "--pairs.contributing_pairs=null",
    "--weights.policy_relative=1",
    "--schedule.steps=5",
    "--schedule.validate_every=5",
    "--schedule.checkpoint_every=1",
    "--seed=3",
]


def start(world: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    train = [sys.executable, "-m", "fieldmark", "train", "saga"]
    command = [*train, f"--data.path={world}", f"--run={run}", *OPTIONS, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def steps_logged(run: Path) -> int:
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.fault
@pytest.mark.parametrize("kill_after", [1, 2, 4])
def test_sigkill_and_resume_is_bit_exact(world, tmp_path, kill_after):
    whole = start(world, tmp_path / "whole")
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors.decode()

    run = tmp_path / "broken"
    broken = start(world, run)
    deadline = time.monotonic() + 300
    while steps_logged(run) < kill_after and broken.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert broken.poll() is None, "the run ended before it could be killed"
    os.killpg(broken.pid, signal.SIGKILL)
    broken.communicate()

    resumed = start(world, run, "--resume")
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors.decode()
    one, two = (load_file(r / "encoder" / "model.safetensors") for r in (tmp_path / "whole", run))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5]
