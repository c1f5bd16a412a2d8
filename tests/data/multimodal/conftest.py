"""A miniature M-BEIR in the exact published layout: nulls, both spellings of positives, COCO's own pool name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

INSTRUCTIONS = """query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\tprompt_3\tprompt_4
text\timage\tMSCOCO\t9\tcoco a\tcoco b\tcoco c\tcoco d
image\ttext\tMSCOCO\t9\tcaption a\tcaption b\tcaption c\t
image\timage\tNIGHTS\t4\tsame a\tsame b\tsame c\tsame d
image,text\timage\tFashionIQ\t7\tchange a\tchange b\tchange c\tchange d
"""


def query(qid: str, text: str | None, image: str | None, positives: list[Any], **more: Any) -> dict[str, Any]:
    kind = ",".join(name for name, value in (("image", image), ("text", text)) if value)
    return {
        "qid": qid, "query_txt": text, "query_img_path": image, "query_modality": kind, "query_src_content": None,
        "pos_cand_list": positives, "neg_cand_list": [], **more,
    }  # fmt: skip


def candidate(did: str, text: str | None, image: str | None) -> dict[str, Any]:
    kind = ",".join(name for name, value in (("image", image), ("text", text)) if value)
    return {"did": did, "txt": text, "img_path": image, "modality": kind, "src_content": None}


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def change(path: Path, old: str, new: str) -> None:
    """Replaces the only occurrence."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old, text)
    path.write_text(text.replace(old, new))


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    root = tmp_path / "M-BEIR"
    pictures = {n: f"mbeir_images/mscoco_images/val2014/{n}.png" for n in range(1, 5)}
    pictures |= {n: f"mbeir_images/nights_images/{n}.png" for n in range(5, 8)}
    pictures |= {n: f"mbeir_images/fashioniq_images/{n}.png" for n in range(8, 12)}
    for number, name in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 20 * number, dtype=np.uint8)).save(root / name)

    coco_images = [candidate(f"9:{n}", None, pictures[n]) for n in range(1, 5)]
    coco_texts = [candidate(f"9:{10 + n}", f"caption {n}", None) for n in range(1, 5)]
    nights = [candidate(f"4:{n}", None, pictures[n]) for n in (5, 6)]
    fashion = [candidate(f"7:{n}", None, pictures[n]) for n in (9, 10, 11)]
    local = root / "cand_pool" / "local"
    write_lines(local / "mbeir_mscoco_task0_test_cand_pool.jsonl", coco_images)
    write_lines(local / "mbeir_mscoco_task3_test_cand_pool.jsonl", coco_texts)
    write_lines(local / "mbeir_nights_task4_cand_pool.jsonl", nights)
    write_lines(local / "mbeir_fashioniq_task7_cand_pool.jsonl", fashion)
    for split in ("train", "val", "test"):
        everything = [*coco_images, *coco_texts, *nights, *fashion]
        write_lines(root / "cand_pool" / "global" / f"mbeir_union_{split}_cand_pool.jsonl", everything)

    test = {
        "mscoco_task0": [
            query("9:1", "a dog", None, ["9:1"], task_id=0),
            query("9:2", "two dogs", None, [{"did": "9:2"}, {"did": "9:3"}], task_id=0),
        ],
        "mscoco_task3": [query("9:5", None, pictures[1], ["9:11", "9:12"], task_id=3)],
        "nights_task4": [query("4:1", None, pictures[7], ["4:5"], task_id=4)],
        "fashioniq_task7": [
            query("7:1", "is red", pictures[8], ["7:9"], task_id=7, grains=["dress", "red"], neg_cand_list=["7:10"])
        ],
    }  # fmt: skip
    for name, queries in test.items():
        write_lines(root / "query" / "test" / f"mbeir_{name}_test.jsonl", queries)
        task = name[-1]
        lines = []
        for one in queries:
            for positive in one["pos_cand_list"]:
                did = positive if isinstance(positive, str) else positive["did"]
                lines.append(f"{one['qid']} 0 {did} 1 {task}\n")
        write_text(root / "qrels" / "test" / f"mbeir_{name}_test_qrels.txt", "".join(lines))
    train = [
        query("9:21", "a cat", None, ["9:1"], task_id=0),
        query("4:21", None, pictures[6], [{"did": "4:5"}]),  # says no task: its positive tells it
        query("7:21", "is blue", pictures[9], ["7:10", "7:11"], task_id=7),
        query("9:21", "a cat", None, ["9:1"], task_id=0),  # upsampled
    ]
    write_lines(root / "query" / "union_train" / "mbeir_union_up_train.jsonl", train)
    write_text(root / "instructions" / "query_instructions.tsv", INSTRUCTIONS)
    return root
