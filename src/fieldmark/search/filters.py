"""Conditions on the columns of an index, in a small part of SQL.

A condition is read by a parser of our own and written anew, so that what reaches the database consists only of columns
that are allowed, literals and the operators below. Nothing of the text is passed on as it stands.

    condition := condition OR condition | condition AND condition | NOT condition | ( condition ) | comparison
    comparison := column (= | == | != | <> | < | <= | > | >=) literal
                | column [NOT] IN (literal, …) | column [NOT] BETWEEN literal AND literal
                | column [NOT] LIKE 'pattern' | column [NOT] ILIKE 'pattern'
                | column IS [NOT] NULL | column                     (the last one for columns of truth values)
    literal := 'text' (a quote within is doubled) | number | TRUE | FALSE
    column := name | "name with spaces" | `name with spaces`
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

MAX_LENGTH = 4000
"""Characters in a condition."""
MAX_DEPTH = 32
"""Brackets and NOTs within each other."""

_TOKEN = re.compile(
    r"""\s+
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<word>[^\W\d]\w*)
    | (?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    """,
    re.VERBOSE,
)
_KEYWORDS = frozenset({"AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE", "IS", "NULL", "TRUE", "FALSE"})
_QUERY_WORDS = frozenset(
    {"SELECT", "FROM", "WHERE", "UNION", "JOIN", "CASE", "WHEN", "CAST", "EXISTS", "WITH", "INSERT", "UPDATE", "DELETE",
     "DROP", "ALTER", "CREATE", "ORDER", "GROUP", "LIMIT", "HAVING", "INTERVAL"}
)  # fmt: skip
_COMPARISONS = frozenset({"=", "==", "!=", "<>", "<", "<=", ">", ">="})
_INT64 = 2**63


def checked_filter(text: str, columns: Collection[str]) -> str:
    """The condition as SQL that can be given to LanceDB: the same meaning, written anew from what was understood.

    Args:
        text: the condition.
        columns: the names that may be used, case and all; as a mapping from name to Arrow type ("string", "int64",
            "float64", "bool", …) literals are checked against the type, too.

    Raises:
        ValueError: the condition is empty or too long, uses another column, a function, a subquery or a comment, or
            cannot be understood. It says what, and where.
    """
    return _Parser(text, columns).run()


def checked_filters(texts: Sequence[str], columns: Collection[str]) -> str:
    """Several conditions that all have to hold, as one. Each is read by itself: no bracket of one closes one of
    another, and places in errors are those of the text that was written.

    Raises:
        FilterError: as `checked_filter`, with the number of the condition.
    """
    checked = []
    for number, text in enumerate(texts):
        try:
            checked.append(checked_filter(text, columns))
        except ValueError as error:
            raise FilterError(str(error), number) from None
    return checked[0] if len(checked) == 1 else " AND ".join(f"({one})" for one in checked)


class FilterError(ValueError):
    """A condition that is not allowed or not understood. number: which of several, from 0."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class _Token:
    kind: str
    """string, quoted, number, word, sign, end"""
    text: str
    position: int

    @property
    def keyword(self) -> str:
        """In capitals if it is a word of SQL that we know, else ""."""
        upper = self.text.upper()
        return upper if self.kind == "word" and upper in _KEYWORDS else ""


class _Parser:
    def __init__(self, text: str, columns: Collection[str]) -> None:
        self._columns = columns
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def run(self) -> str:
        sql = self._either()
        if self._now.kind != "end":
            self._refuse(f"did not expect {self._now.text!r} there: join conditions with AND or OR")
        return sql

    # ---- conditions

    def _either(self) -> str:
        parts = [self._both()]
        while self._take("OR"):
            parts.append(self._both())
        return " OR ".join(parts)

    def _both(self) -> str:
        parts = [self._one()]
        while self._take("AND"):
            parts.append(self._one())
        return " AND ".join(parts)

    def _one(self) -> str:
        opening = self._now
        if not (self._take("NOT") or self._take("(")):
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"the filter has more than {MAX_DEPTH} brackets and NOTs in each other: write it simpler")
        if opening.text == "(":
            sql = f"({self._either()})"
            self._expect(")")
        else:
            sql = f"NOT {self._one()}"
        self._depth -= 1
        return sql

    def _comparison(self) -> str:
        name = self._column()
        column = f"`{name}`"
        if self._now.text in _COMPARISONS and self._now.kind == "sign":
            sign = self._next().text
            sign = {"==": "=", "<>": "!="}.get(sign, sign)
            return f"{column} {sign} {self._literal(name)}"
        if self._take("IS"):
            negated = "NOT " if self._take("NOT") else ""
            self._expect("NULL")
            return f"{column} IS {negated}NULL"
        negated = "NOT " if self._take("NOT") else ""
        if self._take("IN"):
            self._expect("(")
            values = [self._literal(name)]
            while self._take(","):
                values.append(self._literal(name))
            self._expect(")")
            return f"{column} {negated}IN ({', '.join(values)})"
        if self._take("BETWEEN"):
            low = self._literal(name)
            self._expect("AND")
            return f"{column} {negated}BETWEEN {low} AND {self._literal(name)}"
        for word in ("LIKE", "ILIKE"):
            if self._take(word):
                if self._now.kind != "string":
                    self._refuse(f"{word} wants a pattern in single quotes, such as 'Corvus%', not {self._found()}")
                return f"{column} {negated}{word} {self._literal(name)}"
        if negated:
            self._refuse(f"after {name} NOT comes IN, BETWEEN, LIKE or ILIKE, not {self._found()}")
        if self._type(name) not in ("", "bool"):
            self._refuse(f"{name} must be compared with something, for instance {name} = {self._example(name)}")
        return column

    # ---- what they consist of

    def _column(self) -> str:
        token = self._now
        if token.kind == "quoted":
            mark = token.text[0]
            name = token.text[1:-1].replace(mark * 2, mark)
        elif token.kind == "word" and not token.keyword:
            name = token.text
        else:
            # a keyword may be a column's name, too: `in`
            meant = next((one for one in self._columns if one.upper() == token.keyword != ""), None)
            quoted = "" if meant is None else f" (the column of this name is written in backticks: `{meant}`)"
            self._refuse(f"a column's name is wanted, not {self._found()}{quoted}; {self._known()}")
        if name not in self._columns:
            following = self._tokens[self._at + 1]
            if token.kind == "word" and name.upper() in _QUERY_WORDS:
                self._refuse(f"{name} cannot stand in a filter: subqueries and statements are not allowed")
            if following.text == "(" and following.kind == "sign":
                self._refuse(f"{name}(…) cannot stand in a filter: functions are not allowed")
            self._refuse(f"there is no column {name!r}{_guess(name, self._columns)}; {self._known()}")
        if "`" in name:
            self._refuse(f"the column {name!r} cannot be used in filters, since its name holds a backtick")
        self._at += 1
        return name

    def _literal(self, column: str) -> str:
        token = self._now
        kind = self._type(column)
        if token.kind == "quoted" and token.text[0] == '"':
            inner = token.text[1:-1]
            self._refuse(f"text stands in single quotes: write '{inner}' (double quotes are for columns)")
        if token.kind not in ("string", "number") and token.keyword not in ("TRUE", "FALSE"):
            hint = " (IS NULL tells whether a value is missing)" if token.keyword == "NULL" else ""
            quoted = f": write '{token.text}'" if token.kind == "word" and not token.keyword else ""
            self._refuse(
                f"a text in single quotes, a number, TRUE or FALSE is wanted, not {self._found()}{quoted or hint}"
            )
        if kind and not _fits(token, kind):
            self._refuse(f"{column} holds {_in_words(kind)}, so it cannot be compared with {token.text}")
        self._at += 1
        if token.kind == "number":
            return self._number(token, kind)
        return token.text if token.kind == "string" else token.text.upper()

    def _number(self, token: _Token, kind: str) -> str:
        if re.fullmatch(r"[+-]?\d+", token.text):
            whole = int(token.text)
            if not -_INT64 <= whole < _INT64:
                self._refuse(f"{token.text} is too large a number", token)
            return str(whole)
        value = float(token.text)
        if not math.isfinite(value):
            self._refuse(f"{token.text} is too large a number", token)
        if kind.startswith("int"):  # LanceDB refuses even 3.0 for a column of whole numbers
            if not value.is_integer() or abs(value) >= 2**53:
                self._refuse(f"{token.text} is no whole number, and the column holds only such", token)
            return str(int(value))
        return repr(value)

    # ---- the tokens

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, what: str) -> bool:
        """Go past a keyword or sign if it is next."""
        matches = self._now.keyword == what or (self._now.kind == "sign" and self._now.text == what)
        self._at += matches
        return matches

    def _expect(self, what: str) -> None:
        if not self._take(what):
            self._refuse(f"{what} is wanted, not {self._found()}")

    def _found(self) -> str:
        return "the end" if self._now.kind == "end" else repr(self._now.text)

    # ---- errors

    def _refuse(self, reason: str, token: _Token | None = None) -> NoReturn:
        raise ValueError(f"filter, at character {(token or self._now).position + 1}: {reason}")

    def _known(self) -> str:
        return f"columns: {', '.join(sorted(self._columns)) or 'none'}"

    def _type(self, column: str) -> str:
        """Of a column's values, as Arrow calls it; "" if it is not known."""
        return self._columns[column] if isinstance(self._columns, Mapping) else ""

    def _example(self, column: str) -> str:
        return "'x'" if "string" in self._type(column) else "1"


def _tokens(text: str) -> list[_Token]:
    if not text.strip():
        raise ValueError("the filter is empty: leave it out, or write one such as genus = 'Corvus'")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the filter has {len(text)} characters, {MAX_LENGTH} are allowed")
    bad = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)
    if bad:
        raise ValueError(f"filter, at character {bad.start() + 1}: the character {bad.group()!a} is not allowed")
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"filter, at character {at + 1}: {_why_not(text[at:])}")
        if found.lastgroup is not None:
            tokens.append(_Token(found.lastgroup, found.group(), at))
        at = found.end()
    return [*tokens, _Token("end", "", len(text))]


def _why_not(rest: str) -> str:
    if rest.startswith(("--", "/*", "#")):
        return "comments are not allowed"
    if rest[0] in "'\"`":
        return f"the quote {rest[0]} is not closed"
    if rest[0] == ";":
        return "only one condition is allowed, not several statements"
    if rest[0] in "+-*/%|&^~":
        return f"{rest[0]!r} cannot stand in a filter: nothing is computed, only compared"
    return f"{rest[0]!r} cannot stand in a filter"


def _fits(token: _Token, kind: str) -> bool:
    if "string" in kind:
        return token.kind == "string"
    if kind == "bool":
        return bool(token.keyword)
    if kind.startswith(("int", "uint", "float", "double", "halffloat")):
        return token.kind == "number"
    return True


def _in_words(kind: str) -> str:
    if "string" in kind:
        return "text"
    return "TRUE or FALSE" if kind == "bool" else "numbers"


def _guess(name: str, columns: Collection[str]) -> str:
    lower = {column.lower(): column for column in columns}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f": did you mean {lower[close[0]]!r}?" if close else ""
