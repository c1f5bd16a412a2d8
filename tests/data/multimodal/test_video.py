"""Videos are written by PyAV: frame i has the grey value 20 + 10 i."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldmark.data.decode import BadImage, DecodeLimits
from fieldmark.data.multimodal.video import frame_files, frame_positions, read_video, sample_frames
from fieldmark.data.multimodal.video_tasks import read_video_task

av = pytest.importorskip("av", reason="the extra `video` is not installed")


def write_video(path: Path, frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 10**6
        for i in range(frames):
            pixels = np.full((48, 64, 3), 20 + 10 * i, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def grey(frames: list[Image.Image]) -> list[int]:
    return [round(float(np.asarray(frame).mean())) for frame in frames]


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(10, 1, [5]), (10, 2, [2, 7]), (10, 10, list(range(10))), (3, 6, [0, 0, 1, 1, 2, 2]), (1, 2, [0, 0])],
)
def test_positions_are_the_middles_of_equal_parts(total: int, count: int, expected: list[int]) -> None:
    assert frame_positions(total, count) == expected


def test_frames_of_a_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 20)
    frames = sample_frames(path, 4)
    assert frames[0].mode == "RGB" and frames[0].size == (64, 48)
    assert np.abs(np.array(grey(frames)) - np.array([20 + 10 * i for i in (2, 7, 12, 17)])).max() <= 2
    assert len(sample_frames(path, 30)) == 30  # more than there are
    assert read_video(path, 3, 16).shape == (3, 16, 16, 3)


def test_frames_of_a_folder_come_by_number(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(np.full((6, 8, 3), 20 * i, dtype=np.uint8)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("x")
    assert [one.name for one in frame_files(tmp_path)][8:] == [f"frame{i}.png" for i in (8, 9, 10, 11)]
    assert grey(sample_frames(tmp_path, 3)) == [40, 120, 200]


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("text")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    (tmp_path / "empty").mkdir()
    for name in ("a.mp4", "list.mp4", "empty", "nowhere.mp4"):
        with pytest.raises(BadImage, match=name):
            sample_frames(tmp_path / name, 2)


def test_a_damaged_video_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # without its table of contents
    with pytest.raises(BadImage, match=r"a\.mp4: no video that can be read"):
        sample_frames(path, 4)


def test_huge_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="64×48 pixels, the limit is 1,000"):
        sample_frames(write_video(tmp_path / "a.mp4", 2), 1, DecodeLimits(max_pixels=1000))


# --- annotations


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("video1.mp4", "video2.avi"):
        (tmp_path / "videos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "videos" / name).touch()
    (tmp_path / "videos" / "video3").mkdir()
    return tmp_path / "videos"


def test_msrvtt(tmp_path: Path, videos: Path) -> None:
    path = tmp_path / "MSRVTT_data.json"
    content = {
        "videos": [{"video_id": f"video{i}", "split": "test" if i > 1 else "train"} for i in (1, 2, 3)],
        "sentences": [{"video_id": f"video{i}", "caption": f"{i} {k}", "sen_id": 0} for i in (3, 1, 2) for k in "ab"],
    }
    path.write_text(json.dumps(content))
    task = read_video_task(path, videos, split="test")
    assert [c.video for c in task.candidates] == [videos / "video3", videos / "video2.avi"]
    assert [(q.id, q.item.text) for q in task.queries][:2] == [("video3/0", "3 a"), ("video3/1", "3 b")]
    assert task.relevance["video2/1"] == {"video2": 1.0} and task.candidates[0].modality == "video"
    assert task.queries[0].instruction
    assert len(read_video_task(path, videos).candidates) == 3
    with pytest.raises(ValueError, match="no video of split 'val'; its splits: test, train"):
        read_video_task(path, videos, split="val")


def test_msrvtt_1k(tmp_path: Path, videos: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text('key,vid_key,video_id,sentence\nret0,msr1,video1,"a, b"\nret1,msr2,video2,c\n')
    assert [q.item.text for q in read_video_task(path, videos).queries] == ["a, b", "c"]


def test_msvd(tmp_path: Path, videos: Path) -> None:
    path, ids = tmp_path / "AllVideoDescriptions.txt", tmp_path / "test_list.txt"
    path.write_text("# comment\n\nvideo1 a man walks\nvideo1 he walks\nvideo2 a dog\nvideo9 gone\n")
    ids.write_text("video2\nvideo1\n")
    assert [q.item.text for q in read_video_task(path, videos, ids=ids).queries] == ["a dog", "a man walks", "he walks"]
    with pytest.raises(ValueError, match=r"lacks 1 of 3 videos \(video9"):
        read_video_task(path, videos)
    with pytest.warns(UserWarning, match="video9"):
        assert len(read_video_task(path, videos, missing="skip").candidates) == 2
    ids.write_text("video8\n")
    with pytest.raises(ValueError, match="without captions"):
        read_video_task(path, videos, ids=ids)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("raw-captions.pkl", "x", "pickled"),
        ("a.xml", "x", "captions are read from"),
        ("a.json", "[]", 'needs "sentences"'),
        ("a.json", "{", "cannot be read"),
        ("a.csv", "a,b\n1,2\n", "needs the columns video_id and sentence; it has a, b"),
        ("a.txt", "video1\n", "line 1"),
        ("a.txt", "../../x some\n", "leads out of"),
        ("a.txt", "", "no captions"),
    ],
)
def test_other_annotations_are_refused(tmp_path: Path, videos: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_video_task(tmp_path / name, videos)
