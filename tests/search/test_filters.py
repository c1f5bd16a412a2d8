"""Conditions: what passes means what it says, and nothing else reaches the database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures_search import COLOURS, colour_index

from fieldmark.search.filters import MAX_DEPTH, MAX_LENGTH, FilterError, checked_filter, checked_filters

COLUMNS = {"genus": "string", "Common name": "string", "year": "int64", "weight": "double", "wild": "bool"}


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("genus = 'Corvus'", "`genus` = 'Corvus'"),
        ("genus='O''Brien'", "`genus` = 'O''Brien'"),
        ('"Common name" != \'a"b`c\'', "`Common name` != 'a\"b`c'"),
        ("`Common name` <> 'x'", "`Common name` != 'x'"),
        ("year == 2020", "`year` = 2020"),
        ("year>=-3 and weight < .5e1", "`year` >= -3 AND `weight` < 5.0"),
        ("year = 3.0", "`year` = 3"),
        ("weight <= +7", "`weight` <= 7"),
        ("wild", "`wild`"),
        ("not wild or wild = false", "NOT `wild` OR `wild` = FALSE"),
        ("NOT (genus = 'a' OR wild) AND year < 3", "NOT (`genus` = 'a' OR `wild`) AND `year` < 3"),
        ("genus IN ('a', 'b') AND year NOT IN (1,2)", "`genus` IN ('a', 'b') AND `year` NOT IN (1, 2)"),
        ("year BETWEEN 1 AND 5 AND genus LIKE 'C%'", "`year` BETWEEN 1 AND 5 AND `genus` LIKE 'C%'"),
        ("year not between 1 and 5 or genus not ilike 'c_'", "`year` NOT BETWEEN 1 AND 5 OR `genus` NOT ILIKE 'c_'"),
        ("genus IS NULL OR year is not null", "`genus` IS NULL OR `year` IS NOT NULL"),
        ("genus = '-- no comment; DROP TABLE x'", "`genus` = '-- no comment; DROP TABLE x'"),
        ("genus = 'ü\N{FULLWIDTH APOSTROPHE}'", "`genus` = 'ü\N{FULLWIDTH APOSTROPHE}'"),
        ("((((wild))))", "((((`wild`))))"),
    ],
)
def test_a_condition_is_written_anew(text: str, sql: str) -> None:
    assert checked_filter(text, COLUMNS) == sql
    assert checked_filter(text, list(COLUMNS)) == sql or "3.0" in text  # without types, 3.0 stays 3.0
    assert checked_filter(sql, COLUMNS) == sql


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("genos = 'x'", "no column 'genos': did you mean 'genus'"),
        ("Genus = 'x'", "did you mean 'genus'"),
        ("embedding IS NULL", "no column 'embedding'"),
        ("_rowid = 1", "no column '_rowid'"),
        ("genus.x = 1", r"'\.' cannot stand"),
        ("lower(genus) = 'x'", "functions are not allowed"),
        ("genus = lower('x')", "write 'lower'"),
        ("genus IN (SELECT genus FROM pictures)", "in single quotes.* is wanted, not 'SELECT'"),
        ("EXISTS (SELECT 1)", "subqueries"),
        ("(SELECT 1) = 1", "subqueries"),
        ("CASE WHEN wild THEN 1 END = 1", "subqueries and statements"),
        ("wild -- really", "comments"),
        ("wild /* really */", "comments"),
        ("wild; DROP TABLE pictures", "several statements"),
        ("genus = 'x' OR 1=1", "column's name is wanted, not '1'"),
        ("'a' = 'a'", "column's name is wanted"),
        ("TRUE", "column's name is wanted, not 'TRUE'"),
        ("genus = genus", "write 'genus'"),
        ("year + 1 = 2", "nothing is computed"),
        ("genus || 'x' = 'x'", "nothing is computed"),
        ("genus::text = 'x'", "':' cannot stand"),
        ("genus = 'x", "the quote ' is not closed"),
        ("genus = 'x' 'y'", "did not expect"),
        ("genus 'x'", "must be compared"),
        ("genus", "must be compared with something, for instance genus = 'x'"),
        ('genus = "x"', "write 'x'"),
        ("genus = x", "write 'x'"),
        ("genus = NULL", "IS NULL"),
        ("genus LIKE 3", "wants a pattern"),
        ("genus NOT = 'x'", "after genus NOT comes"),
        ("genus = 3", "genus holds text"),
        ("year = 'x'", "year holds numbers"),
        ("year LIKE '3%'", "year holds numbers"),
        ("wild = 1", "wild holds TRUE or FALSE"),
        ("year = 2.5", "no whole number"),
        ("year = 99999999999999999999", "too large"),
        ("weight < 1e999", "too large"),
        ("year = 3x", "'3' cannot stand"),
        ("(wild", r"\) is wanted, not the end"),
        ("wild)", r"did not expect '\)'"),
        ("wild AND", "column's name is wanted, not the end"),
        ("genus IN ()", "is wanted"),
        ("genus = 'a\0b'", "is not allowed"),
        ("genus = '\ud800'", "is not allowed"),
        ("genus ＝ 'x'", "cannot stand"),
        ("(" * (MAX_DEPTH + 1) + "wild" + ")" * (MAX_DEPTH + 1), "brackets"),
        ("NOT " * (MAX_DEPTH + 1) + "wild", "brackets"),
        ("(" * 3000, "brackets"),
        ("genus = '" + "x" * MAX_LENGTH + "'", "characters, 4000 are allowed"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_filter(text, COLUMNS)


def test_a_column_whose_name_could_break_out_is_refused() -> None:
    with pytest.raises(ValueError, match="backtick"):
        checked_filter('"a` = 1 OR `b" = 1', ["a` = 1 OR `b"])


def test_an_error_says_where() -> None:
    with pytest.raises(ValueError, match="at character 10: there is no column 'colour'; columns: genus"):
        checked_filter("wild AND colour = 'red'", ["wild", "genus"])


Truth = Callable[[dict[str, Any]], bool | None]
"""A row's columns to whether it meets a condition; None where a missing value leaves it open, as in SQL."""


def drawn(generator: np.random.Generator, depth: int) -> tuple[str, Truth]:
    """A condition and its meaning, drawn at random."""
    kind = generator.integers(0, 4 if depth else 1)
    if kind == 1:
        text, truth = drawn(generator, depth - 1)
        return f"NOT {text}" if text[0] == "(" else f"not({text})", lambda row: negated(truth(row))
    if kind:
        (left, first), (right, second) = drawn(generator, depth - 1), drawn(generator, depth - 1)
        word, decisive = ("AND", False) if kind == 2 else ("or", True)
        text = f"{left} {word} {right}"

        def both(row: dict[str, Any]) -> bool | None:
            values = (first(row), second(row))
            return decisive if decisive in values else None if None in values else not decisive

        return f"({text})", both
    number = int(generator.integers(-1, 8))
    name = str(generator.choice(list(COLOURS)))
    leaves: list[tuple[str, Truth]] = [
        (f"number<{number}", lambda row: row["number"] < number),
        (f"number  <> {number}", lambda row: row["number"] != number),
        (f"number BETWEEN {number} AND {number + 2}", lambda row: number <= row["number"] <= number + 2),
        (f"colour = '{name}'", lambda row: row["colour"] == name),
        (f"colour LIKE '{name[0]}%'", lambda row: row["colour"].startswith(name[0])),
        (f"colour not in ('{name}', 'blue')", lambda row: row["colour"] not in (name, "blue")),
        (f"path >= '{name}'", lambda row: row["path"] >= name),
        ("warm", lambda row: row["warm"]),
        ("warm = FALSE", lambda row: negated(row["warm"])),
        ("warm IS NULL", lambda row: row["warm"] is None),
    ]
    return leaves[generator.integers(0, len(leaves))]


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def test_the_database_understands_a_condition_as_we_do(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path)
    rows = [{**row.metadata, "path": row.path} for row, _ in index.nearest(np.ones(4, np.float32), 99)]
    columns = {"path": "string", **index.facts.metadata}
    generator = np.random.default_rng(0)
    sizes = set()
    for _ in range(150):
        text, truth = drawn(generator, int(generator.integers(0, 4)))
        where = checked_filter(text, columns)
        found = {path for batch in index.scan(("path",), where) for path in batch.column("path").to_pylist()}
        assert found == {row["path"] for row in rows if truth(row) is True}, text
        sizes.add(len(found))
    assert len(sizes) > 4  # neither all nor nothing every time


def test_and_binds_before_or_and_not_before_both(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path)

    def found(text: str) -> set[int]:
        where = checked_filter(text, index.facts.metadata)
        return {number for batch in index.scan(("number",), where) for number in batch.column("number").to_pylist()}

    assert found("number = 1 OR number = 2 AND number > 5") == {1}
    assert found("(number = 1 OR number = 2) AND number > 1") == {2}
    assert found("NOT number = 1 AND number < 3") == {0, 2}
    assert found("NOT (number = 1 AND number < 3) AND number < 2") == {0}


def test_long_conditions_do_not_overwhelm_the_database(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path)
    columns = index.facts.metadata
    for text in (
        " OR ".join(["number=3"] * 330),
        "(" * MAX_DEPTH + "number=3" + ")" * MAX_DEPTH,
        "NOT " * MAX_DEPTH + "number=3",
        "colour IN (" + ",".join(["'green'"] * 300) + ") AND number = 3 OR number IN (" + ",".join("3" * 300) + ")",
    ):
        found = index.nearest(np.ones(4, np.float32), 99, where=checked_filter(text, columns))
        assert [row.metadata["number"] for row, _ in found] == [3]


def test_columns_named_like_keywords_are_written_in_backticks() -> None:
    assert checked_filter("`IN` = 1", ["IN"]) == "`IN` = 1"
    with pytest.raises(ValueError, match=r"not 'in' \(the column of this name is written in backticks: `IN`\)"):
        checked_filter("in = 1", ["IN"])


def test_several_conditions_are_read_one_by_one() -> None:
    assert checked_filters(["number = 1"], ["number"]) == "`number` = 1"
    assert checked_filters(["a = 1 OR b = 2", "b = 3"], ["a", "b"]) == "(`a` = 1 OR `b` = 2) AND (`b` = 3)"
    with pytest.raises(FilterError, match="at character 6: did not expect") as refused:
        checked_filters(["b = 3", "a = 1) OR (b = 2"], ["a", "b"])
    assert refused.value.number == 1
