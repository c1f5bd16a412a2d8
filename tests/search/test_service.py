"""The service over HTTP: the same answers as the library gives, changes, documents, overload."""

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.search.serving import TOKEN, Index, Served, png, serve

from fieldmark.search.build import BuildConfig, build_index
from fieldmark.search.disk import DiskFull
from fieldmark.search.encoders import EncoderInput
from fieldmark.search.queries import Part, SearchQuery
from fieldmark.search.queries import search as library_search
from fieldmark.search.schema import to_row
from fieldmark.search.service import answers
from fieldmark.search.service.app import build_app
from fieldmark.search.service.config import Batching, Limits, ServiceConfig

AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


def post(served: Served, path: str, query: dict[str, Any], *pictures: bytes, **more: Any) -> httpx.Response:
    files = [("image", ("x", picture)) for picture in pictures]
    if not files:
        return httpx.post(served.url + path, json=query, timeout=30, **more)
    return httpx.post(served.url + path, data={"query": json.dumps(query)}, files=files, timeout=30, **more)


def found(answer: httpx.Response) -> list[tuple[str, float]]:
    assert answer.status_code == 200, answer.text
    return [(hit["id"], round(hit["score"], 4)) for hit in answer.json()["hits"]]


@pytest.mark.parametrize(
    ("asked", "query"),
    [
        ({"parts": [{"image": 0}], "k": 5}, lambda a, b, ids: SearchQuery((Part(1.0, a),), k=5)),
        (
            {"parts": [{"image": 1, "weight": 0.7}, {"image": 0, "weight": -0.4}]},
            lambda a, b, ids: SearchQuery((Part(0.7, b), Part(-0.4, a))),
        ),
        (
            {"parts": [{"image": 0}], "more_like": [2], "less_like": [7], "where": "split = 'test'"},
            lambda a, b, ids: SearchQuery((Part(1.0, a),), (ids[2],), (ids[7],), "split = 'test'"),
        ),
        ({"k": 4}, lambda a, b, ids: SearchQuery((Part(1.0, a), Part(1.0, b)), k=4)),
        ({"parts": [{"id": 3}]}, lambda a, b, ids: SearchQuery((Part(1.0, id=ids[3]),))),
        ({"more_like": [0, 1]}, lambda a, b, ids: SearchQuery((), (ids[0], ids[1]))),
    ],
)
def test_search_gives_what_the_library_gives(
    served: Served, bird_encoder: Any, asked: dict[str, Any], query: Any
) -> None:
    files = sorted(served.index.root.rglob("*.png"))
    a, b = files[1].read_bytes(), files[9].read_bytes()
    asked = json.loads(json.dumps(asked))
    for part in asked.get("parts", []):
        if "id" in part:
            part["id"] = served.ids[part["id"]]
    for name in ("more_like", "less_like"):
        if name in asked:
            asked[name] = [served.ids[number] for number in asked[name]]
    expected = library_search(served.index, query(a, b, served.ids), bird_encoder)
    assert found(post(served, "/search", asked, a, b)) == [
        (hit.id, pytest.approx(hit.score, abs=2e-4)) for hit in expected
    ]


def test_results_carry_metadata_and_items_are_found_again(served: Served) -> None:
    hit = post(served, "/search", {"parts": [{"id": served.ids[0]}], "k": 1}).json()["hits"][0]
    item = httpx.get(f"{served.url}/items/{hit['id']}").json()
    assert item["metadata"] == hit["metadata"] and item["metadata"]["species"]
    assert (item["width"], item["height"]) == (96, 96)
    image = httpx.get(f"{served.url}/items/{hit['id']}/image")
    assert image.content == (served.index.root / item["path"]).read_bytes()
    assert image.headers["content-type"] == "image/png" and "sandbox" in image.headers["content-security-policy"]
    for size in (128, 256, 512):
        thumbnail = httpx.get(f"{served.url}/items/{hit['id']}/thumbnail?size={size}")
        assert thumbnail.headers["content-type"] == "image/webp" and thumbnail.status_code == 200


def test_formats_that_browsers_do_not_show_come_as_webp(bird_encoder: Any, tmp_path: Path, make_birds: Any) -> None:
    index = make_birds(tmp_path)
    row = next(iter(index.scan(["id", "path"]))).to_pylist()[0]
    Image.open(index.root / row["path"]).save(index.root / row["path"], "TIFF")
    with serve(index, bird_encoder) as running:
        answer = httpx.get(f"{running.url}/items/{row['id']}/image", timeout=30)
    assert answer.headers["content-type"] == "image/webp" and answer.content[8:12] == b"WEBP"


def test_explanation_sums_to_the_centred_cosine(served: Served) -> None:
    picture = sorted(served.index.root.rglob("*.png"))[4].read_bytes()
    hit = post(served, "/search", {"parts": [{"image": 0}], "k": 3}, picture).json()["hits"][2]
    answer = post(served, "/explain", {"a": {"image": 0}, "b": {"id": hit["id"]}}, picture).json()
    assert answer["cosine"] == pytest.approx(hit["score"], abs=1e-4)
    for name in ("contribution", "similarity_a", "similarity_b"):
        assert np.sum(answer[name]) == pytest.approx(answer["centred_cosine"], abs=1e-4)
    rows = served.index.vectors(served.ids).astype(np.float64)
    both = np.stack([rows[4], rows[served.ids.index(hit["id"])]]) - rows.mean(0)
    expected = both[0] @ both[1] / np.prod(np.linalg.norm(both, axis=1))
    assert answer["centred_cosine"] == pytest.approx(expected, abs=1e-3) and expected < answer["cosine"]
    assert all(pair["specific"] == pair["contribution"] for pair in answer["correspondences"])
    assert np.shape(answer["attention_a"]) == tuple(answer["grid_a"]) == (8, 8)
    assert np.sum(answer["difference_a"]) + np.sum(answer["difference_b"]) == pytest.approx(
        1 - answer["cosine"], abs=1e-4
    )


def test_without_enough_items_the_plain_cosine_is_explained(bird_encoder: Any, tmp_path: Path, make_birds: Any) -> None:
    index = make_birds(tmp_path)
    with serve(index, bird_encoder) as running:
        asked = {"a": {"id": running.ids[0]}, "b": {"id": running.ids[3]}}
        answer = post(running, "/explain", asked).json()
        assert answer["centred_cosine"] is None
        assert np.sum(answer["contribution"]) == pytest.approx(answer["cosine"], abs=1e-4)
        for shade in range(4):  # with eight items there is a mean, without a new start
            post(running, "/items", {"metadata": {}}, png((60 * shade, 200, 9)), headers=AUTHORISED)
        answer = post(running, "/explain", asked).json()
        assert np.sum(answer["contribution"]) == pytest.approx(answer["centred_cosine"], abs=1e-4)


def test_adding_finding_and_deleting(bird_encoder: Any, tmp_path: Path, make_birds: Any) -> None:
    index = make_birds(tmp_path)
    red = png((210, 20, 20))
    files_before = sorted(path for path in index.root.rglob("*") if path.is_file())
    with serve(index, bird_encoder) as running:
        asked = {"metadata": {"species": "a red square", "number": 7, "weight": 2, "adult": None}}
        added = post(running, "/items", asked, red, headers=AUTHORISED)
        assert added.status_code == 200 and added.json()["added"]
        item = added.json()["item"]
        assert item["hash"] == hashlib.sha256(red).hexdigest() and (item["width"], item["height"]) == (32, 32)
        assert item["metadata"] == {"species": "a red square", "split": None, "number": 7, "weight": 2.0, "adult": None}
        for same in (asked, {}, {"metadata": {"number": 7}}):
            again = post(running, "/items", same, red, headers=AUTHORISED).json()
            assert not again["added"] and again["item"]["id"] == item["id"]
        other = post(running, "/items", {"metadata": {"number": 7, "weight": 3}}, red, headers=AUTHORISED)
        assert other.status_code == 409 and f"DELETE /items/{item['id']}" in other.json()["error"]["message"]
        assert "other values of weight:" in other.json()["error"]["message"]
        hits = post(running, "/search", {"parts": [{"image": 0}], "k": 1}, red).json()["hits"]
        assert hits[0]["id"] == item["id"] and hits[0]["score"] == pytest.approx(1, abs=1e-4)
        assert httpx.get(f"{running.url}/items/{item['id']}/image").content == red
        assert httpx.delete(f"{running.url}/items/{item['id']}", headers=AUTHORISED).json() == {"deleted": item["id"]}
        assert httpx.get(f"{running.url}/items/{item['id']}").status_code == 404
        assert httpx.delete(f"{running.url}/items/{running.ids[0]}", headers=AUTHORISED).status_code == 200
    assert len(index) == 3
    assert sorted(path for path in index.root.rglob("*") if path.is_file()) == files_before  # its own file stays


def test_a_picture_of_the_source_is_not_added_again(bird_encoder: Any, tmp_path: Path, make_birds: Any) -> None:
    built = BuildConfig(images=str(make_birds(tmp_path).root), index=str(tmp_path / "built"), workers=0)
    build_index(built, bird_encoder)
    index = Index.open(built.index)
    row = to_row(next(iter(index.scan())).to_pylist()[0])
    with serve(index, bird_encoder) as running:
        content = (index.root / row.path).read_bytes()
        again = post(running, "/items", {}, content, headers=AUTHORISED).json()
    assert not again["added"] and again["item"]["path"] == row.path and len(index) == 4


def test_same_picture_from_many_at_once_is_one_item(bird_encoder: Any, tmp_path: Path, make_birds: Any) -> None:
    index = make_birds(tmp_path)
    with serve(index, bird_encoder) as running, ThreadPoolExecutor(6) as pool:
        blue = png((20, 20, 220))
        answers = list(pool.map(lambda _: post(running, "/items", {}, blue, headers=AUTHORISED).json(), range(6)))
    assert sum(answer["added"] for answer in answers) == 1
    assert len({answer["item"]["id"] for answer in answers}) == 1
    assert len(index) == 5


def test_adding_to_a_full_disk_or_a_busy_index_changes_nothing(
    bird_encoder: Any, tmp_path: Path, make_birds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_birds(tmp_path)
    before = sorted(path for path in index.root.rglob("*") if path.is_file())
    with serve(index, bird_encoder) as running:
        for error, status in ((DiskFull("no space left"), 507), (ValueError("is being written by another"), 503)):

            def refuse(rows: Any, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(index, "append", refuse)
            assert post(running, "/items", {}, png((5, 6, 7)), headers=AUTHORISED).status_code == status
            assert sorted(path for path in index.root.rglob("*") if path.is_file()) == before
    assert len(index) == 4


def test_read_only_without_a_token(birds: Index, bird_encoder: Any) -> None:
    from tests.search.serving import running

    config = ServiceConfig(index=str(birds.path), port=0)
    with running(build_app(birds, bird_encoder, config), config) as url:
        assert httpx.delete(f"{url}/items/{'0' * 16}", headers=AUTHORISED).status_code == 403
        assert (
            httpx.post(f"{url}/items", files=[("image", ("x", png((1, 2, 3))))]).json()["error"]["code"] == "read_only"
        )
        assert httpx.get(f"{url}/about").json()["writable"] is False


def test_about_tells_the_page_what_it_needs(served: Served) -> None:
    about = httpx.get(f"{served.url}/about").json()
    assert about["rows"] == 16 and about["explains"] and not about["reads_words"]
    facets = {facet["column"]: facet["values"] for facet in about["facets"]}
    assert set(facets) == {"species", "split", "adult"}  # numbers are no chips
    assert sorted(facets["split"]) == ["test", "train"] and sorted(facets["adult"]) == ["false", "true"]
    assert all(facet["whole"] and facet["total"] == len(facet["values"]) for facet in about["facets"])
    assert str(served.index.root) not in json.dumps(about)


def test_facets_say_what_they_leave_out(birds: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_FACET_VALUES", 3)
    limits = (None, None, None, ServiceConfig(index="").limits)  # facets need neither encoder nor decoder
    species = next(one for one in answers.Answers(birds, *limits).facets() if one.column == "species")  # type: ignore[arg-type]
    assert (len(species.values), species.total, species.whole) == (3, 4, True)
    batches = list(birds.scan(["species", "split", "adult"], batch_size=4))
    monkeypatch.setattr(answers, "_FACET_ROWS", 4)
    monkeypatch.setattr(Index, "scan", lambda *_: iter(batches))
    facets = {one.column: one for one in answers.Answers(birds, *limits).facets()}  # type: ignore[arg-type]
    assert (facets["species"].values, facets["species"].total, facets["species"].whole) == (
        [batches[0].column("species")[0].as_py()],
        1,
        False,
    ), "the one value of the first rows need not be that of all"


def test_refused_pictures_and_filters_are_named(served: Served) -> None:
    error = post(served, "/search", {"parts": [{"text": "a bird"}]}).json()["error"]
    assert error["message"].startswith("the encoder reads pictures only")
    good, bad = ("image", ("a", png((1, 2, 3)))), ("image", ("b", b"<svg/>"))
    error = httpx.post(f"{served.url}/search", files=[good, bad]).json()["error"]
    assert (error["code"], error["picture"]) == ("no_picture", 1) and "render it to PNG" in error["message"]
    damaged = ("image", ("b", png((1, 2, 3))[:60]))
    error = httpx.post(f"{served.url}/search", files=[good, damaged]).json()["error"]
    assert (error["code"], error["picture"]) == ("bad_picture", 1)
    asked = {"more_like": [served.ids[0]], "where": "nosuch = 1"}
    error = httpx.post(f"{served.url}/search", json=asked).json()["error"]
    assert error["code"] == "bad_filter" and "picture" not in error


def test_several_conditions_are_read_one_by_one(served: Served) -> None:
    def ask(*where: str) -> httpx.Response:
        return post(served, "/search", {"more_like": [served.ids[0]], "where": list(where)})

    both = found(ask("number < 9 OR number > 12", "split = 'test'"))
    one = post(
        served, "/search", {"more_like": [served.ids[0]], "where": "(number < 9 OR number > 12) AND split = 'test'"}
    )
    assert both == found(one) and 0 < len(both) < 8
    assert len(found(ask())) == 15
    error = ask("split = 'test'", "number < 9) OR (number > 12").json()["error"]
    assert (error["code"], error["where"]) == ("bad_filter", 1)
    assert error["message"].startswith("filter, at character 11: did not expect ')'")
    assert ask("split = 'test'", "").json()["error"]["where"] == 1
    assert ask(*["number < 9"] * 17).status_code == ask("number < 9", "x" * 1000).status_code == 422


def test_parameters_out_of_range_are_named(served: Served) -> None:
    error = httpx.get(f"{served.url}/items?limit=0").json()["error"]
    assert error["code"] == "bad_query" and error["message"] == "limit must be from 1 to 100, not 0"
    assert httpx.get(f"{served.url}/items?limit=x").json()["error"]["message"].startswith("limit: ")


def test_openapi_describes_every_route_and_both_kinds_of_body(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/search", "/explain", "/items", "/items/{id}", "/items/{id}/image", "/items/{id}/thumbnail", "/about",
        "/health", "/metrics",
    }  # fmt: skip
    body = document["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    names = set(document["components"]["schemas"])
    references = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= names


def test_metrics_count_what_happened(served: Served) -> None:
    post(served, "/search", {"parts": [{"image": 0}]}, png((3, 4, 5)))
    text = httpx.get(f"{served.url}/metrics").text
    assert 'fieldmark_requests_total{method="POST",route="/search",status="200"}' in text
    assert "fieldmark_index_rows 16.0" in text and "fieldmark_batch_size_count" in text
    assert served.ids[0] not in text  # routes, not paths


def test_page_files_are_cached_by_content(served: Served) -> None:
    first = httpx.get(f"{served.url}/page/page.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = httpx.get(f"{served.url}/page/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


class HeldEncoder:
    """The birds' encoder behind a gate."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.gate, self.entered = inner, threading.Event(), threading.Event()
        self.name, self.fingerprint = inner.name, inner.fingerprint
        self.embedding_size, self.reads_words, self.max_text_tokens = inner.embedding_size, True, 24

    def decode_size(self) -> int:
        return self.inner.decode_size()

    def cuts(self, text: str) -> bool:
        return text.count(" ") >= self.max_text_tokens

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        self.entered.set()
        assert self.gate.wait(30)
        words = np.zeros((1, 1, 3), np.uint8)
        return self.inner.embed([EncoderInput(words if item.picture is None else item.picture) for item in items])


def test_overload_gives_503_and_no_other_error(birds: Index, bird_encoder: Any) -> None:
    held = HeldEncoder(bird_encoder)
    settings = {"limits": Limits(), "batching": Batching(size=4, queue=5, window_ms=0)}
    with serve(birds, held, **settings) as running, ThreadPoolExecutor(24) as pool:
        picture = png((9, 9, 9))
        futures = [pool.submit(post, running, "/search", {"parts": [{"image": 0}], "k": 1}, picture) for _ in range(24)]
        assert held.entered.wait(30)
        deadline = time.monotonic() + 30
        while sum(future.done() for future in futures) < 24 - 1 - 5 - 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = [future for future in futures if future.done()]
        held.gate.set()
        statuses = [future.result(30).status_code for future in futures]
        assert set(statuses) == {200, 503}
        assert 24 - 1 - 5 - 4 <= statuses.count(503) <= 24 - 1 - 5
        assert refused and all(int(future.result().headers["Retry-After"]) >= 1 for future in refused)
        assert post(running, "/search", {"parts": [{"image": 0}], "k": 1}, picture).status_code == 200


def test_encoder_that_reads_words_gets_them_and_explains_nothing(birds: Index, bird_encoder: Any) -> None:
    wordy = HeldEncoder(bird_encoder)
    wordy.gate.set()
    with serve(birds, wordy) as running:
        assert len(found(post(running, "/search", {"parts": [{"text": "a bird"}, {"image": 0}]}, png((3, 3, 3))))) == 16
        about = httpx.get(f"{running.url}/about").json()
        assert about["reads_words"] and not about["explains"]
        long = post(running, "/search", {"parts": [{"text": "a bird " * 40}, {"text": "a bird"}]})
        assert len(long.json()["notes"]) == 1 and "longer than the encoder reads" in long.json()["notes"][0]
        assert post(running, "/search", {"parts": [{"text": "a bird"}]}).json()["notes"] == []
        answer = post(running, "/explain", {"a": {"id": running.ids[0]}, "b": {"id": running.ids[1]}})
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "no_explanation"


def test_error_of_the_encoder_is_an_internal_error_without_words(birds: Index, bird_encoder: Any) -> None:
    class Broken(HeldEncoder):
        def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
            raise RuntimeError("CUDA error at kernel.cu:99")

    with serve(birds, Broken(bird_encoder)) as running:
        answer = post(running, "/search", {"parts": [{"image": 0}]}, png((3, 3, 3)))
        assert answer.status_code == 500 and "CUDA" not in answer.text
        assert answer.json()["error"]["request_id"] == answer.headers["X-Request-ID"]
        assert httpx.get(f"{running.url}/health").json()["status"] == "ok"


def test_other_encoder_is_refused_before_it_serves(birds: Index, bird_encoder: Any) -> None:
    other = HeldEncoder(bird_encoder)
    other.fingerprint = "f" * 64
    with pytest.raises(ValueError, match="built with the encoder"):
        build_app(birds, other, ServiceConfig(index=str(birds.path)))


def test_private_service_tells_strangers_nothing(birds: Index, bird_encoder: Any) -> None:
    with serve(birds, bird_encoder, host="0.0.0.0", token_file="given") as running:
        for path in ("/items", f"/items/{running.ids[0]}/image", "/about", "/openapi.json", "/metrics"):
            assert httpx.get(running.url + path).status_code == 401
            assert httpx.get(running.url + path, headers=AUTHORISED).status_code == 200
        assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}
        assert httpx.get(running.url + "/").status_code == 200
