"""Conditions: what passes means what it says, and nothing else reaches the database."""

import pytest

from fieldmark.search.filters import MAX_DEPTH, MAX_LENGTH, checked_filter

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
