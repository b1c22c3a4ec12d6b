"""Attempts to get out of the SQL sandbox, each with what stops it; for the test and the bench.

In a query, {folder} is a folder with secret.csv, a symbolic link to it (link.csv) and another
database; {store} is the store's own file.
"""

from dataclasses import dataclass

REFUSED, EMPTY, BOUNDED, VALUE = "refused", "nothing there", "stopped", "a value"


@dataclass(frozen=True)
class Escape:
    """A query and how it has to end: refused, no rows, stopped by a limit, or harmless."""

    what: str
    sql: str
    ends: str = REFUSED


_FILES = {
    "read_csv": "FROM read_csv('{folder}/secret.csv')",
    "read_text": "FROM read_text('{folder}/secret.csv')",
    "read_blob": "FROM read_blob('/etc/passwd')",
    "read_json": "FROM read_json('{folder}/secret.csv')",
    "read_parquet": "FROM read_parquet('{folder}/*.parquet')",
    "a file as a table": "FROM '{folder}/secret.csv'",
    "a symbolic link": "FROM read_text('{folder}/link.csv')",
    "a path with ..": "FROM read_text('{folder}/x/../secret.csv')",
    "a relative path": "FROM read_text('../../../../etc/passwd')",
    "/proc/self/environ": "FROM read_text('/proc/self/environ')",
    "/proc/self/fd": "FROM read_blob('/proc/self/fd/0')",
    "/dev/stdin": "FROM read_csv('/dev/stdin')",
    "a file: address": "FROM read_text('file://{folder}/secret.csv')",
    "http": "FROM read_csv('http://127.0.0.1:9/x.csv')",
    "s3": "FROM read_parquet('s3://bucket/x.parquet')",
    "glob": "FROM glob('{folder}/*')",
    "the store's file": "FROM read_blob('{store}')",
    "read_text in query()": "FROM query('FROM read_text(''{folder}/secret.csv'')')",
    "parquet_metadata": "FROM parquet_metadata('{folder}/x.parquet')",
    "sniff_csv": "FROM sniff_csv('{folder}/secret.csv')",
    "a variable of Python": "FROM request",
}
_STATEMENTS = {
    "COPY to a file": "COPY (SELECT 1) TO '{folder}/out.csv'",
    "COPY to the store": "COPY (SELECT 1) TO '{store}' (USE_TMP_FILE false)",
    "COPY to the store's log": "COPY (SELECT 1) TO '{store}.wal' (USE_TMP_FILE false)",
    "COPY from a file": "COPY data.suite FROM '{folder}/secret.csv'",
    "COPY in EXPLAIN ANALYZE": "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.csv'",
    "COPY in query()": "FROM query('COPY (SELECT 1) TO ''{folder}/out.csv''')",
    "COPY in WITH": "WITH a AS (COPY (SELECT 1) TO '{folder}/out.csv') FROM a",
    "EXPORT DATABASE": "EXPORT DATABASE '{folder}/all'",
    "IMPORT DATABASE": "IMPORT DATABASE '{folder}'",
    "COPY FROM DATABASE": "COPY FROM DATABASE metrics TO memory",
    "ATTACH": "ATTACH '{folder}/other.duckdb'",
    "ATTACH ':memory:'": "ATTACH ':memory:' AS m",
    "ATTACH postgres": "ATTACH 'host=127.0.0.1' AS p (TYPE postgres)",
    "DETACH": "DETACH metrics",
    "USE": "USE memory",
    "INSTALL": "INSTALL httpfs",
    "INSTALL from an address": "INSTALL x FROM 'http://127.0.0.1:9'",
    "LOAD": "LOAD httpfs",
    "LOAD a library": "LOAD '{folder}/evil.duckdb_extension'",
    "UPDATE EXTENSIONS": "UPDATE EXTENSIONS",
    "SET a limit": "SET memory_limit = '100GB'",
    "SET external access": "SET enable_external_access = true",
    "SET file systems": "SET disabled_filesystems = ''",
    "SET temp_directory": "SET temp_directory = '{folder}'",
    "SET log file": "SET log_query_path = '{folder}/log'",
    "RESET": "RESET lock_configuration",
    "PRAGMA": "PRAGMA threads = 64",
    "PRAGMA profiling": "PRAGMA profiling_output = '{folder}/profile'",
    "CALL": "CALL pragma_version()",
    "CHECKPOINT": "CHECKPOINT",
    "VACUUM": "VACUUM",
    "CREATE SECRET": "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE PERSISTENT SECRET": "CREATE PERSISTENT SECRET s (TYPE http)",
    "CREATE MACRO": "CREATE MACRO f(a) AS (SELECT content FROM read_text(a))",
    "CREATE TEMP TABLE": "CREATE TEMP TABLE t AS FROM range(10)",
    "CREATE TABLE": "CREATE TABLE t AS SELECT 1",
    "INSERT": "INSERT INTO data.suite VALUES ('a', 'b', 'c', 'd')",
    "UPDATE": "UPDATE data.suite SET title = 'mine'",
    "DELETE": "DELETE FROM data.suite",
    "DELETE in EXPLAIN ANALYZE": "EXPLAIN ANALYZE DELETE FROM data.suite",
    "MERGE": "MERGE INTO data.suite USING range(1) ON true WHEN MATCHED THEN DELETE",
    "DROP": "DROP VIEW suites",
    "ALTER": "ALTER TABLE data.suite ADD COLUMN x INTEGER",
    "COMMENT": "COMMENT ON VIEW suites IS 'mine'",
    "PREPARE": "PREPARE p AS SELECT 1",
    "EXECUTE": "EXECUTE p",
    "BEGIN": "BEGIN",
    "two statements": "SELECT 1; DELETE FROM data.suite",
    "a statement behind a comment": "SELECT 1 /* ; */ ; -- x\nDROP VIEW suites",
    "a comment before a statement": "/* SELECT */ -- SELECT 1\nDELETE FROM data.suite",
    "an odd space before a statement": "\u00a0\ufeffDELETE FROM data.suite",
    "a zero byte": "SELECT 1\0; DELETE FROM data.suite",
    "a change in WITH": "WITH a AS (DELETE FROM data.suite RETURNING *) FROM a",
    "force_checkpoint": "FROM force_checkpoint()",
    "getenv": "SELECT getenv('HOME')",
}
_HARMLESS = {
    "secrets": ("FROM duckdb_secrets()", EMPTY),
    "the log": ("FROM duckdb_logs()", EMPTY),
    "read the settings": ("SELECT current_setting('enable_external_access')", VALUE),
}
_BOMBS = {
    "a billion rows sorted": "FROM range(10000000000) t(a) ORDER BY hash(a)",
    "endless recursion": "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) "
    "SELECT count(*) FROM r",
    "a huge string": "SELECT length(repeat(repeat('x', 1000000), 3000))",
    "a huge list": "SELECT len(range(3000000000))",
    "huge aggregates": "SELECT len(list(a)) FROM range(10000000000) t(a)",
    "a slow function": "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
    "a regular expression": "SELECT regexp_extract_all(repeat('ab', 100000000), '(a?){{50}}b')",
    "sleep": "SELECT sleep_ms(100000)",
    "a product of tables": "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(1000000) b(i)",
    "brackets without end": f"SELECT {'(' * 200_000}1{')' * 200_000}",
    "a million terms": f"SELECT {'1+' * 500_000}1",
}

ESCAPES = (
    *(Escape(what, sql) for what, sql in (_FILES | _STATEMENTS).items()),
    *(Escape(what, sql, ends) for what, (sql, ends) in _HARMLESS.items()),
    *(Escape(what, sql, BOUNDED) for what, sql in _BOMBS.items()),
)
