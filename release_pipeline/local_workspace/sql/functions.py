"""The functions that statements may call, and those whose DuckDB form sqlglot does not write as Databricks means it.

Two tables decide everything: a name in neither is refused, so no function of DuckDB that reads files, settings or the
engine's own state can be reached. Where the two systems' answers are known to differ and cannot be made equal
(``hash``, ``xxhash64``, ``typeof``, ``current_user``), the function is left out rather than answered wrongly. A number
from a text, the same on both systems, is ``conv(substr(md5(text), 1, 8), 16, 10)``.
"""

import re
from functools import cache

from sqlglot import exp, parse_one

from release_pipeline.local_workspace.sql.failures import unsupported

TRANSLATED = frozenset(
    """
    ABS ACOS ADD_MONTHS AGGREGATE ANY_VALUE APPROX_COUNT_DISTINCT APPROX_DISTINCT APPROX_PERCENTILE ARRAY ARRAY_AGG
    ARRAY_APPEND ARRAY_COMPACT ARRAY_CONTAINS ARRAY_DISTINCT ARRAY_EXCEPT ARRAY_INTERSECT ARRAY_JOIN ARRAY_MAX ARRAY_MIN
    ARRAY_POSITION ARRAY_PREPEND ARRAY_SORT ASCII ASIN ATAN ATAN2 AVG BIT_LENGTH BOOL_AND BOOL_OR CAST CBRT
    CEIL CEILING CHAR CHAR_LENGTH CHARACTER_LENGTH CHR COALESCE COLLECT_LIST COLLECT_SET CONCAT CONCAT_WS CONTAINS CORR
    COS COT COUNT COUNT_IF COVAR_POP COVAR_SAMP CUME_DIST CURRENT_DATE
    CURRENT_TIMESTAMP DATE DATE_FORMAT DATE_TRUNC DATEADD DATEDIFF DAY DAYOFMONTH
    DAYOFYEAR DEGREES DENSE_RANK DOUBLE ELEMENT_AT ENDSWITH EXP EXPLODE EXTRACT FACTORIAL FILTER FIRST
    FIRST_VALUE FLATTEN FLOAT FLOOR FROM_UNIXTIME GREATEST GROUPING HEX HOUR IF IFF IFNULL ILIKE INITCAP INSTR INT ISNAN
    KURTOSIS LAG LAST LAST_DAY LAST_VALUE LCASE LEAD LEAST LEFT LEN LENGTH LEVENSHTEIN LIKE LISTAGG LN LOCATE LOG LOG10
    LOG2 LOWER LPAD LTRIM MAP MAP_FROM_ARRAYS MAP_FROM_ENTRIES MAP_KEYS MAX MAX_BY MD5 MEDIAN MIN MIN_BY MINUTE MOD MODE
    MONTH NAMED_STRUCT NANVL NOW NTH_VALUE NTILE NULLIF NVL NVL2 OVERLAY PERCENT_RANK PERCENTILE PERCENTILE_APPROX
    PERCENTILE_CONT PERCENTILE_DISC PI POSITION POW POWER QUARTER RADIANS RAND RANDOM RANK REDUCE REGEXP_COUNT
    REGEXP_EXTRACT REGEXP_EXTRACT_ALL REGEXP_LIKE REGEXP_REPLACE REPEAT REPLACE REVERSE RIGHT RLIKE ROUND ROW_NUMBER
    RPAD RTRIM SECOND SEQUENCE SHA SHA1 SHA2 SIGN SIGNUM SIN SKEWNESS SLICE SORT_ARRAY SPLIT SPLIT_PART SQRT
    STARTSWITH STDDEV STDDEV_POP STDDEV_SAMP STRING STRING_AGG STRUCT SUBSTR SUBSTRING SUBSTRING_INDEX SUM TAN TIMESTAMP
    TIMESTAMPADD TO_DATE TO_JSON TO_TIMESTAMP TRANSFORM TRANSLATE TRIM TRUNC TRY_CAST TRY_DIVIDE TRY_ELEMENT_AT UCASE
    UNIX_TIMESTAMP UPPER UUID VAR_POP VAR_SAMP VARIANCE WEEKOFYEAR YEAR
    """.split()  # noqa: SIM905
)
"""Upper-case names whose translation by sqlglot is right."""

_INSTANT = "MAKE_TIMESTAMP(EPOCH_US(CAST({} AS TIMESTAMPTZ)))"
# Timestamps are kept without a zone, in UTC; going through TIMESTAMPTZ applies an offset that the text carries.
_NOW = "MAKE_TIMESTAMP(EPOCH_US(CURRENT_TIMESTAMP))"
# Of arrays and of maps.
_COUNTED = "CAST(CARDINALITY(_0) AS INTEGER)"

_TEMPLATES = {
    ("ARRAY_SIZE", 1): _COUNTED,
    ("BOOL_XOR", 2): "(_0 <> _1)",
    ("CARDINALITY", 1): _COUNTED,
    ("CONV", 3): "CAST(CAST('0x' || _0 AS UBIGINT) AS VARCHAR)",
    ("DATE_ADD", 2): "CAST(CAST(_0 AS DATE) + CAST(_1 AS INTEGER) AS DATE)",
    ("DATE_DIFF", 2): "DATE_DIFF('day', CAST(_1 AS DATE), CAST(_0 AS DATE))",
    ("DATE_SUB", 2): "CAST(CAST(_0 AS DATE) - CAST(_1 AS INTEGER) AS DATE)",
    ("DAYOFWEEK", 1): "DAYOFWEEK(_0) + 1",
    ("EVERY", 1): "BOOL_AND(_0)",
    ("EXISTS", 2): "LEN(LIST_FILTER(_0, _1)) > 0",
    ("ISNULL", 1): "(_0 IS NULL)",
    ("ISNOTNULL", 1): "(_0 IS NOT NULL)",
    ("MAP_CONTAINS_KEY", 2): "LEN(MAP_EXTRACT(_0, _1)) > 0",
    ("MAP_VALUES", 1): "MAP_VALUES(_0)",
    ("PARSE_JSON", 1): "JSON(_0)",
    ("PMOD", 2): "((_0 % _1) + _1) % _1",
    ("SIZE", 1): _COUNTED,
    ("SOME", 1): "BOOL_OR(_0)",
    ("TIMESTAMP_MICROS", 1): "MAKE_TIMESTAMP(CAST(_0 AS BIGINT))",
    ("TIMESTAMP_MILLIS", 1): "MAKE_TIMESTAMP(CAST(_0 AS BIGINT) * 1000)",
    ("TIMESTAMP_SECONDS", 1): "MAKE_TIMESTAMP(CAST(_0 * 1000000 AS BIGINT))",
    ("TO_TIMESTAMP", 1): _INSTANT.format("_0"),
    ("TO_UNIX_TIMESTAMP", 1): "EPOCH_US(CAST(_0 AS TIMESTAMPTZ)) // 1000000",
    ("TRY_TO_TIMESTAMP", 1): "MAKE_TIMESTAMP(EPOCH_US(TRY_CAST(_0 AS TIMESTAMPTZ)))",
    ("UNIX_MICROS", 1): "EPOCH_US(CAST(_0 AS TIMESTAMPTZ))",
    # EPOCH_MS would round.
    ("UNIX_MILLIS", 1): "CAST(FLOOR(EPOCH_US(CAST(_0 AS TIMESTAMPTZ)) / 1000) AS BIGINT)",
    ("UNIX_SECONDS", 1): "EPOCH_US(CAST(_0 AS TIMESTAMPTZ)) // 1000000",
    ("UNIX_TIMESTAMP", 0): "EPOCH_US(CURRENT_TIMESTAMP) // 1000000",
    ("UNIX_TIMESTAMP", 1): "EPOCH_US(CAST(_0 AS TIMESTAMPTZ)) // 1000000",
}
# The paths that Spark follows; it answers NULL for every other one, so for an index counted from the end.
_JSON_PATH = re.compile(r"""\$(\.[^.\[\]]+|\[\d+\]|\['[^'?]+'\])*""")
# Each cast to an integer type writes its operand several times; nested ones must not multiply.
_MOST_CASTS_WITHIN = 8
# These count whole units that have passed; DuckDB's DATE_DIFF counts boundaries crossed.
_ELAPSED = frozenset({"TIMESTAMPDIFF", "DATEDIFF", "DATE_DIFF"})

REWRITTEN = frozenset(_TEMPLATES) | {(name, 3) for name in _ELAPSED} | {("GET_JSON_OBJECT", 2)}
"""Name and number of arguments of every function that this module writes itself."""


@cache
def _template(text: str) -> exp.Expr:
    return parse_one(text, read="duckdb")


def _fill(text: str, *arguments: exp.Expr) -> exp.Expr:
    """The template with ``_0``, ``_1``, ... replaced, in parentheses so that its place cannot change its meaning."""
    holder = exp.Paren(this=_template(text).copy())
    for column in list(holder.find_all(exp.Column)):
        if column.name[:1] == "_" and column.name[1:].isdigit():
            column.replace(arguments[int(column.name[1:])].copy())
    return holder


def _elapsed(unit: exp.Expr, start: exp.Expr, end: exp.Expr) -> exp.Expr:
    return _fill(
        f"DATE_SUB(_0, {_INSTANT.format('_1')}, {_INSTANT.format('_2')})",
        exp.Literal.string(unit.name.lower()),
        start,
        end,
    )


def _json_value(text: exp.Expr, path: exp.Expr) -> exp.Expr:
    if isinstance(path, exp.Literal):
        if "*" in path.this:
            raise unsupported("get_json_object with a wildcard in its path")
        if not _JSON_PATH.fullmatch(path.this):
            return exp.cast(exp.Null(), "VARCHAR")
        path = exp.Literal.string(re.sub(r"\['([^'?]+)'\]", r'."\1"', path.this))
    # A response that is not JSON (a stream of events, say) has no fields: NULL, as on the service, not an error.
    return _fill("TRY(JSON_EXTRACT_STRING(_0, _1))", text, path)


def instant(value: exp.Expr) -> exp.Expr:
    """The expression as a UTC timestamp, with any offset that its text carries applied."""
    return _fill(_INSTANT.format("_0"), value)


def _replacement(node: exp.Expr) -> exp.Expr | None:
    if isinstance(node, exp.Anonymous):
        name, arguments = node.name.upper(), node.expressions
        if name in _ELAPSED and len(arguments) == 3:
            return _elapsed(*arguments)
        if (name, len(arguments)) == ("GET_JSON_OBJECT", 2):
            return _json_value(*arguments)
        if name == "CONV" and [argument.name for argument in arguments[1:]] != ["16", "10"]:
            raise unsupported("conv of anything but base 16 to base 10")
        template = _TEMPLATES.get((name, len(arguments)))
        return _fill(template, *arguments) if template else None
    if isinstance(node, exp.JSONExtract | exp.JSONExtractScalar):
        return _json_value(node.this, node.expression)
    if isinstance(node, exp.CurrentTimestamp):
        return _fill(_NOW)
    if isinstance(node, exp.CurrentDate):
        return _fill(f"CAST({_NOW} AS DATE)")
    if isinstance(node, exp.Floor | exp.Ceil) and not node.args.get("decimals"):
        # A whole number in Spark; DuckDB leaves a double a double.
        return exp.cast(node.copy(), "BIGINT")
    if isinstance(node, exp.StrToUnix):
        return exp.cast(node.copy(), "BIGINT")
    if type(node) is exp.Quantile:
        return _fill("QUANTILE_CONT(_0, _1)", node.this, node.args["quantile"])  # percentile interpolates
    if isinstance(node, exp.Cast) and node.to.this in TIMESTAMP_TYPES:
        return _fill("MAKE_TIMESTAMP(EPOCH_US(_0))", type(node)(this=node.this, to=exp.DataType.build("TIMESTAMPTZ")))
    if isinstance(node, exp.Cast) and node.to.this in exp.DataType.INTEGER_TYPES:
        return _whole_number(node)
    if isinstance(node, exp.Like | exp.ILike) and "\\" in node.expression.name:
        # Spark's escape character in a pattern; DuckDB has none unless it is named.
        return None if isinstance(node.parent, exp.Escape) else _escaped(node)
    return None


def _whole_number(cast: exp.Cast) -> exp.Expr | None:
    """A cast to an integer type: Spark cuts a fraction off and refuses a text that has one; DuckDB rounds both."""
    if isinstance(cast.this, exp.Placeholder) or (isinstance(cast.this, exp.Literal) and cast.this.is_int):
        return None
    if sum(1 for _ in cast.this.find_all(exp.Cast)) > _MOST_CASTS_WITHIN:
        return None
    kind = cast.to.sql(dialect="duckdb")
    name = "TRY_CAST" if isinstance(cast, exp.TryCast) else "CAST"
    return _fill(
        f"CASE WHEN TYPEOF(_0) IN ('DOUBLE', 'FLOAT') OR TYPEOF(_0) LIKE 'DECIMAL%' "
        f"THEN {name}(TRUNC(TRY_CAST(_0 AS DOUBLE)) AS {kind}) "
        f"WHEN TYPEOF(_0) = 'VARCHAR' AND CONTAINS(CAST(_0 AS VARCHAR), '.') "
        f"THEN {name}(CAST(_0 AS VARCHAR) || '?' AS {kind}) ELSE {name}(_0 AS {kind}) END",
        cast.this,
    )


def _escaped(like: exp.Expr) -> exp.Expr:
    return exp.Paren(this=exp.Escape(this=like.copy(), expression=exp.Literal.string("\\")))


TIMESTAMP_TYPES = frozenset(
    {exp.DType.TIMESTAMP, exp.DType.TIMESTAMPTZ, exp.DType.TIMESTAMPLTZ, exp.DType.TIMESTAMPNTZ}
)
"""Databricks' timestamp types; all are DuckDB's plain TIMESTAMP here, because the session's zone is always UTC."""


def rewrite_functions(tree: exp.Expr) -> exp.Expr:
    """Replace the calls that sqlglot would not translate as Databricks means them, and the timestamp types.

    Args:
        tree: A parsed statement; changed in place.

    Returns:
        The tree, which is a new node when the root itself was replaced.
    """
    for kind in tree.find_all(exp.DataType):
        if kind.this in TIMESTAMP_TYPES and not isinstance(kind.parent, exp.Cast):
            kind.set("this", exp.DType.TIMESTAMP)
    # Deepest first, so that a replaced call already holds its replaced arguments.
    for node in reversed(list(tree.find_all(exp.Func, exp.Like, exp.ILike))):
        replacement = _replacement(node)
        if replacement is not None:
            if node is tree:
                tree = replacement
            else:
                node.replace(replacement)
    return tree
