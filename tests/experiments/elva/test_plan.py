"""Which runs a table asks for, what they are called, what they cost, and what is refused."""

from pathlib import Path

import pytest

from fieldmark.experiments.elva.cost import listing, num_steps
from fieldmark.experiments.elva.plan import ElvaTableConfig, plan_runs
from fieldmark.experiments.elva.reproduce import by_folder, reproduce_elva, with_starts
from fieldmark.experiments.elva.runs import ElvaRun


def planned(tmp_path: Path, table: str, **options):
    config = ElvaTableConfig(table=table, seeds=(1, 2), out=str(tmp_path), **{"dry_run": True, **options})
    return {(p.row.key, p.seed): p for p in plan_runs(config)}, config


def test_tables_share_runs_and_different_runs_have_different_folders(tmp_path):
    controls, _ = planned(tmp_path, "controls")
    ablation, _ = planned(tmp_path, "ablation")
    posttrain, _ = planned(tmp_path, "posttrain")
    weights, _ = planned(tmp_path, "weights")
    assert controls["stage3", 1].run == ablation["stage3", 1].run == weights["stage3", 1].run
    assert controls["continued", 2].run == posttrain["continued", 2].run
    everything = {**controls, **ablation, **weights}
    results = {p.run.results for p in everything.values()}
    assert len(results) == len(everything)
    first, second = controls["stage3", 1].run.folder, controls["stage3", 2].run.folder
    assert first != second and first.parent == second.parent


def test_one_training_is_measured_in_several_modes(tmp_path):
    found, _ = planned(tmp_path, "posttrain")
    one, other = found["continued", 1].run, found["continued_generative", 1].run
    assert one.folder == other.folder and one.results != other.results and one.config == other.config
    assert by_folder([one, found["after", 1].run, other]) == [(one, other), (found["after", 1].run,)]
    controls, _ = planned(tmp_path, "controls")
    assert controls["stage2", 1].run.folder == controls["stage2_generative", 1].run.folder
    assert controls["stage2", 1].run.results != controls["stage2_generative", 1].run.results


def test_a_row_starts_from_the_run_of_another(tmp_path):
    found, _ = planned(tmp_path, "posttrain")
    after, start = found["after", 2].run, found["continued", 2].run
    assert after.after == start and (after.depth, start.depth) == (1, 0)
    assert after.config.model.base == str(start.folder)
    controls, _ = planned(tmp_path, "controls")
    assert after.folder != controls["stage3", 2].run.folder
    assert with_starts([found["after", 2]]) == [start, after]


def test_names_do_not_depend_on_where_the_data_lie(tmp_path, checkpoint):
    here, _ = planned(tmp_path / "here", "controls")
    there, _ = planned(tmp_path / "there", "controls")
    for key, one in here.items():
        assert one.run.folder.relative_to(tmp_path / "here") == there[key].run.folder.relative_to(tmp_path / "there")
        assert one.run.config.data.path != there[key].run.config.data.path
    other, _ = planned(tmp_path / "here", "controls", base=str(checkpoint))
    assert not {p.run.folder for p in other.values()} & {p.run.folder for p in here.values()}
    assert other["stage3", 1].place.mining.out != here["stage3", 1].place.mining.out


def test_negatives_are_mined_once_and_enough_for_every_row(tmp_path):
    runs = [planned(tmp_path, table)[0] for table in ("controls", "ablation", "heldout")]
    mined = {p.place.mining.out for found in runs for (_, seed), p in found.items() if seed == 1}
    assert len(mined) == 1
    mining = runs[0]["stage3", 1].place.mining
    for found in runs:
        for p in found.values():
            c = p.run.config
            if p.row.trains == "elva":
                assert c.negatives.hard <= mining.hard and c.negatives.random <= mining.random
                assert c.negatives.mined == p.place.mining.out
    continued, stage3 = (runs[0][key, 1].run.config for key in ("continued", "stage3"))
    assert continued.mined == stage3.negatives.mined and continued.mined_depth == stage3.negatives.hard


def test_rows_that_train_nothing_are_measured_once_outside_of_drawn_worlds(tmp_path):
    found, _ = planned(tmp_path, "controls", benchmark="mbeir", root="M-BEIR")
    assert sorted(seed for key, seed in found if key == "stage2") == [1]
    assert sorted(seed for key, seed in found if key == "stage3") == [1, 2]
    assert found["stage3", 1].place.mining.queries == 11_000 and found["stage3", 1].run.measurement.published_mbeir


def test_dry_run_starts_nothing(tmp_path):
    _, config = planned(tmp_path, "controls")
    text = reproduce_elva(config)
    assert text.count("to run") == 10 and "10 of 10 runs to do" in text and "not a measurement" in text
    assert list(tmp_path.iterdir()) == []
    found, config = planned(tmp_path, "main", benchmark="mbeir")
    assert num_steps(found["stage3", 1]) == 11_000 // 8 and "H200" in listing(list(found.values()), config)


def test_order_is_most_telling_first(tmp_path):
    found, _ = planned(tmp_path, "controls")
    assert list(found)[:3] == [("stage3", 1), ("stage3", 2), ("stage2", 1)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"table": "contrls"}, "unknown table 'contrls': did you mean 'controls'"),
        ({"benchmark": "mbier"}, "unknown benchmark 'mbier': did you mean 'mbeir'"),
        ({"benchmark": "mbeir"}, "set --root"),
        ({"root": "x"}, "leave --root out"),
        ({"table": "video"}, "no rows for fieldguide"),
        ({"table": "video", "benchmark": "mbeir", "root": "x"}, "needs --annotations"),
        ({"table": "mrbench", "benchmark": "mbeir", "root": "x"}, "give it with --mrbench"),
        ({"seeds": ()}, "at least one seed"),
        ({"processes": 0}, "processes must be at least 1"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(options, said):
    with pytest.raises(ValueError, match=said):
        ElvaTableConfig(**options)


def test_a_start_that_is_done_is_not_done_again(tmp_path):
    found, _ = planned(tmp_path, "posttrain")
    start: ElvaRun = found["continued", 1].run
    start.folder.mkdir(parents=True)
    start.results.write_text("{}")
    assert with_starts([found["after", 1]]) == [found["after", 1].run]


def test_emoji_have_recipes_and_a_number_of_mined_queries_of_their_own(tmp_path, checkpoint):
    runs, _ = planned(tmp_path, "main", benchmark="emoji", root=str(tmp_path / "emoji"), base=str(checkpoint))
    assert {one.run.config.model.embedder.max_new_tokens for one in runs.values()} == {24}
    assert {one.place.mining.queries for one in runs.values()} == {4000}


def test_a_dry_run_names_data_and_start(tmp_path):
    (tmp_path / "emoji" / "query" / "test").mkdir(parents=True)
    (tmp_path / "emoji" / "emoji.json").write_text("{}")
    (tmp_path / "emoji" / "query" / "test" / "mbeir_emoji_task0_test.jsonl").touch()
    asked = {"benchmark": "emoji", "out": str(tmp_path / "out"), "dry_run": True, "seeds": (1,)}
    said = reproduce_elva(ElvaTableConfig(**asked))
    assert "data:  --root is not given" in said and "runs/emoji/stage2, the recipe's, is not there yet" in said
    said = reproduce_elva(ElvaTableConfig(**asked, root=str(tmp_path / "emoji"), base="bundled-elva-start"))
    assert f"data:  {tmp_path / 'emoji'}\nstart: bundled-elva-start\n" in said
    assert "taken as a hub name" in reproduce_elva(ElvaTableConfig(**asked, base="somebody/retriever"))


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "runs/emoji/nope"}, "no embedder at runs/emoji/nope: give one with --base"),
        ({"root": "there/is/none"}, "no folder there/is/none"),
        ({"root": "plain"}, "not what `fieldmark data emoji` writes"),
        ({"root": "plain", "benchmark": "mbeir"}, "is plain M-BEIR"),
    ],
)
def test_data_or_start_that_are_not_there_are_refused_at_once(options, said, dry_run, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    (tmp_path / "emoji.json").touch()
    monkeypatch.chdir(tmp_path)
    config = {"benchmark": "emoji", "root": ".", "base": "bundled-elva-start", "out": "out", **options}
    if options.get("base"):
        (tmp_path / "query" / "test").mkdir(parents=True)
        (tmp_path / "query" / "test" / "mbeir_emoji_task0_test.jsonl").touch()
    with pytest.raises(ValueError, match=said):
        reproduce_elva(ElvaTableConfig(**config, dry_run=dry_run))
    assert not (tmp_path / "out").exists()


def test_the_recipes_start_has_to_be_there_for_a_real_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no embedder at runs/elva/stage2.*train the recipe's start first"):
        reproduce_elva(ElvaTableConfig(table="ablation", benchmark="mbeir", root=collection(tmp_path), out="out"))
    assert not (tmp_path / "out").exists()


def collection(folder: Path) -> str:
    (folder / "query" / "test").mkdir(parents=True)
    (folder / "query" / "test" / "mbeir_cirr_task7_test.jsonl").touch()
    return str(folder)
