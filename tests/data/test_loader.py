"""Batches are the same bytes whoever decodes them; what fails is named; nothing hangs."""

import gc
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fieldmark.data.collection import LabelledImages, load_collection
from fieldmark.data.decode import BadImage
from fieldmark.data.loader import Augmentation, Batch, ImageLoader, load_all
from fieldmark.data.reader import PictureReader
from fieldmark.data.samplers import ClassBalancedBatches

AUGMENTED = Augmentation(horizontal_flip=True, crop_scale_min=0.4)


@pytest.fixture
def images(birds: Path) -> LabelledImages:
    return load_collection(birds)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    if multiprocessing.active_children():
        gc.collect()
        assert multiprocessing.active_children() == []


def batches(step: int) -> list[int]:
    """Eight pictures, other ones in each step."""
    return [(step * 5 + k * 7) % 24 for k in range(8)]


def equal(one: Batch, two: Batch) -> bool:
    return all(
        torch.equal(a, b) for a, b in ((one.images, two.images), (one.labels, two.labels), (one.indices, two.indices))
    )


def all_equal(some: Iterable[Batch], others: Iterable[Batch]) -> bool:
    return all(equal(one, two) for one, two in zip(some, others, strict=True))


def test_a_batch_is_what_pillow_gives(images: LabelledImages) -> None:
    batch = ImageLoader(images, 24, batches).load(3)
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (8, 24, 24, 3) and len(batch) == 8
    assert batch.indices.tolist() == batches(3) and batch.indices.dtype == torch.int64
    assert batch.labels.tolist() == images.labels[batches(3)].tolist() and batch.labels.dtype == torch.int64
    for pixels, i in zip(batch.images, batches(3), strict=True):
        with Image.open(images.root / images.ids[i]) as file:
            expected = file.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels.numpy(), np.asarray(expected))


@pytest.mark.parametrize("augmentation", [None, AUGMENTED, Augmentation(horizontal_flip=True)])
@pytest.mark.parametrize("cache_bytes", [0, 2**24])
def test_workers_give_the_same_bytes(
    images: LabelledImages, augmentation: Augmentation | None, cache_bytes: int
) -> None:
    arguments = {"augmentation": augmentation, "seed": 9, "cache_bytes": cache_bytes}
    plain = [ImageLoader(images, 24, batches, **(arguments | {"cache_bytes": 0})).load(s) for s in range(9)]
    with ImageLoader(images, 24, batches, **arguments) as here:
        assert all_equal(here.iterate(0, 9), plain)
    with ImageLoader(images, 24, batches, workers=2, prefetch=3, **arguments) as ahead:
        assert all_equal(ahead.iterate(0, 9), plain)
        assert all_equal(ahead.iterate(4, 9), plain[4:])  # resumed, and from memory
        assert equal(ahead.load(2), plain[2])


def test_one_and_three_workers_and_a_sampler(images: LabelledImages) -> None:
    sampler = ClassBalancedBatches(images.labels, 8, 2, seed=1)
    plain = [ImageLoader(images, 16, sampler.batch, augmentation=AUGMENTED).load(s) for s in range(4)]
    for workers, prefetch in ((1, 1), (3, 2)):
        with ImageLoader(
            images, 16, sampler.batch, augmentation=AUGMENTED, workers=workers, prefetch=prefetch
        ) as loader:
            assert all_equal(loader.iterate(0, 4), plain)


def test_parquet_in_workers(tmp_path: Path, make_bytes: Callable[..., bytes]) -> None:
    rows = [make_bytes(str(i)) for i in range(24)]
    pq.write_table(pa.table({"image": rows, "label": ["x", "y"] * 12}), tmp_path / "a.parquet", row_group_size=5)
    found = load_collection(tmp_path)
    plain = [ImageLoader(found, 16, batches).load(s) for s in range(3)]
    with ImageLoader(found, 16, batches, workers=2) as loader:
        assert all_equal(loader.iterate(0, 3), plain)


def test_augmentation_depends_on_seed_step_and_position_only(images: LabelledImages) -> None:
    def same(step: int) -> list[int]:
        return [3] * 6

    def pixels(seed: int, step: int, augmentation: Augmentation = AUGMENTED) -> np.ndarray:
        return ImageLoader(images, 20, same, augmentation=augmentation, seed=seed).load(step).images.numpy()

    np.testing.assert_array_equal(pixels(1, 5), pixels(1, 5))
    seen = {p.tobytes() for seed in range(2) for step in range(3) for p in pixels(seed, step)}
    assert len(seen) == 36  # every picture of every batch of every seed is another view
    plain = pixels(0, 0, Augmentation())
    assert all(p.tobytes() == plain[0].tobytes() for p in plain)


def test_half_of_the_pictures_are_mirrored(images: LabelledImages) -> None:
    loader = ImageLoader(images, 16, lambda step: [0] * 400, augmentation=Augmentation(horizontal_flip=True))
    original = ImageLoader(images, 16, lambda step: [0]).load(0).images[0]
    mirrored = 0
    for picture in loader.load(0).images:
        if torch.equal(picture, original.flip(1)):
            mirrored += 1
        else:
            assert torch.equal(picture, original)
    assert 150 < mirrored < 250


def test_crops_keep_the_promised_share(images: LabelledImages) -> None:
    reader = PictureReader(images, 16, Augmentation(crop_scale_min=0.25), 0, 0)
    rng = np.random.default_rng(0)
    shares, ratios = [], []
    for draw in [*rng.random((2000, 4)), np.zeros(4), np.ones(4)]:
        left, top, right, bottom = reader._box((40, 32), *draw)
        assert 0 <= left < right <= 40 and 0 <= top < bottom <= 32
        shares.append((right - left) * (bottom - top) / (40 * 32))
        ratios.append((right - left) / (bottom - top) / (40 / 32))
    assert min(shares) > 0.25 - 1e-9 and max(shares) < 1 + 1e-9
    assert abs(np.mean(shares) - 0.625) < 0.02  # uniform
    assert 0.74 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.34


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_senseless_crops_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="crop_scale_min"):
        Augmentation(crop_scale_min=share)


@pytest.mark.parametrize("augmentation", [None, AUGMENTED])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_small_collection_is_decoded_once(
    images: LabelledImages, workers: int, augmentation: Augmentation | None
) -> None:
    needed = 24 * (500 * 400 if augmentation else 16 * 16) * 3
    plain = [ImageLoader(images, 16, batches, augmentation=augmentation).load(s) for s in range(24)]
    with ImageLoader(images, 16, batches, augmentation=augmentation, workers=workers, cache_bytes=needed) as loader:
        assert all_equal(loader.iterate(0, 24), plain)
        for name in images.ids:
            (images.root / name).unlink()
        assert all_equal(loader.iterate(0, 24), plain)
    with (
        pytest.raises(BadImage, match="No such file"),
        ImageLoader(images, 16, batches, augmentation=augmentation, cache_bytes=needed - 1) as loader,
    ):
        list(loader.iterate(0, 1))


def test_kept_pictures_stay_below_the_limit(images: LabelledImages) -> None:
    reader = PictureReader(images, 16, AUGMENTED, 0, 24 * 500 * 400 * 3)
    small = reader.share(2)
    small._free = 40 * 32 * 3 * 5 + 1
    for i in range(24):
        small.read(i, 0, i)
    assert len(small._kept) == 5 and small._free == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_named_when_its_batch_is_due(images: LabelledImages, workers: int) -> None:
    bad = next(s for s in range(1, 20) if 9 in batches(s) and not any(9 in batches(t) for t in range(s)))
    path = images.root / images.ids[9]
    path.write_bytes(path.read_bytes()[:100])
    with ImageLoader(images, 16, batches, workers=workers) as loader:
        iterator = loader.iterate(0, 20)
        for step in range(bad):
            assert next(iterator).indices.tolist() == batches(step)
        with pytest.raises(BadImage, match="truncated") as caught:
            next(iterator)
        assert caught.value.path == str(path)
        with pytest.raises(StopIteration):
            next(iterator)
        assert next(loader.iterate(0, 1)).indices.tolist() == batches(0)  # the workers live on


def test_of_several_bad_pictures_the_first_is_named(images: LabelledImages) -> None:
    for i in batches(0)[2:]:
        (images.root / images.ids[i]).write_text("x")
    for workers in (0, 1, 3):
        with (
            ImageLoader(images, 16, batches, workers=workers) as loader,
            pytest.raises(BadImage) as caught,
        ):
            next(loader.iterate(0))
        assert caught.value.path.endswith(images.ids[batches(0)[2]])


def test_a_killed_worker_is_an_error_that_names_its_pictures(images: LabelledImages) -> None:
    with ImageLoader(images, 16, batches, workers=2) as loader:
        iterator = loader.iterate(0, None)
        next(iterator)
        victim = loader._workers._processes[0]
        os.kill(victim.pid, 9)
        with pytest.raises(RuntimeError, match=r"exit code -9.*these pictures to read: .*\.png") as caught:
            for _ in range(10):
                next(iterator)
        assert str(images.root) in str(caught.value)
        with pytest.raises(RuntimeError, match="exit code -9"):
            next(loader.iterate(0))


def test_leaving_early_ends_everything(images: LabelledImages) -> None:
    begin = time.monotonic()
    with ImageLoader(images, 64, batches, workers=2, prefetch=8) as loader:
        iterator = loader.iterate(0)
        next(iterator)
        iterator.close()
        again = loader.iterate(2, 4)  # what was under way does not get in the way
        assert [batch.indices.tolist() for batch in again] == [batches(2), batches(3)]
        one, two = loader.iterate(0), loader.iterate(5)
        for step in range(3):
            assert next(one).indices.tolist() == batches(step)
            assert next(two).indices.tolist() == batches(step + 5)
        pending = loader.iterate(0)
        next(pending)
    assert multiprocessing.active_children() == []
    with pytest.raises(RuntimeError, match="closed"):
        next(pending)
    with pytest.raises(RuntimeError, match="closed"):
        loader.iterate(0)
    loader.close()
    assert loader.load(1).indices.tolist() == batches(1)
    assert time.monotonic() - begin < 60


def test_a_loader_that_is_forgotten_ends_its_workers(images: LabelledImages) -> None:
    loader = ImageLoader(images, 16, batches, workers=1)
    iterator = loader.iterate(0)
    next(iterator)
    assert len(multiprocessing.active_children()) == 1
    del iterator, loader
    gc.collect()
    assert multiprocessing.active_children() == []


SCRIPT = """
import sys
from pathlib import Path
print("main file runs")
from fieldmark.data.collection import load_collection, screen_images
from fieldmark.data.loader import ImageLoader
images = load_collection(Path(sys.argv[1]))
assert screen_images(images, skip_bad=False, workers=1)[1] == []
loader = ImageLoader(images, 16, lambda step: [step % 24], workers=1)
print(next(loader.iterate(0)).images.shape)
raise SystemExit(3)  # without closing anything
"""


def test_a_script_without_guard_that_ends_without_closing(birds: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, str(script), str(birds)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == ["main file runs", "torch.Size([1, 16, 16, 3])"]  # once: no child runs it


def test_workers_need_not_load_torch() -> None:
    source = Path(__file__).parents[2] / "src"
    code = "import sys, fieldmark.data.decode_workers; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(source)})


@pytest.mark.parametrize("workers", [0, 2])
def test_load_all(images: LabelledImages, workers: int) -> None:
    found = list(load_all(images, 16, workers=workers, batch_size=7))
    assert [len(batch) for batch in found] == [7, 7, 7, 3]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(24))
    assert torch.cat([batch.labels for batch in found]).tolist() == images.labels.tolist()
    whole = ImageLoader(images, 16, lambda step: range(24)).load(0)
    assert torch.equal(torch.cat([batch.images for batch in found]), whole.images)


def test_load_all_may_be_left_early(images: LabelledImages) -> None:
    iterator = load_all(images, 16, workers=2, batch_size=2)
    next(iterator)
    iterator.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    "arguments",
    [{"image_size": 0}, {"workers": -1}, {"prefetch": 0}, {"cache_bytes": -1}, {"seed": -1}],
)
def test_senseless_numbers_are_refused(images: LabelledImages, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ImageLoader(**{"collection": images, "image_size": 8, "batches": batches, **arguments})


def test_senseless_batches_are_refused(images: LabelledImages) -> None:
    for indices in ([24], [-1], []):
        with pytest.raises(ValueError, match="must name pictures from 0 to 23"):
            ImageLoader(images, 8, lambda step, i=indices: i).load(0)
    loader = ImageLoader(images, 8, batches)
    for start, stop in ((-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="start"):
            loader.iterate(start, stop)
    with pytest.raises(ValueError, match="step"):
        loader.load(-1)
    with pytest.raises(ValueError, match="batch_size"):
        load_all(images, 8, batch_size=0)
    with pytest.raises(ValueError, match="empty"):
        ImageLoader(images.subset([]), 8, batches)
    assert list(loader.iterate(2, 2)) == []
