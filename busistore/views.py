"""What SQL sees of a store: one view for each table at a fixed version, without files, and a few joined ones."""

from __future__ import annotations

import re

import pyarrow as pa

from busistore.schema import TABLES, TOKENS, embeddings_table
from busistore.store import Store

SNAPSHOT_ROWS = 20_000  # up to here a table is read once into memory, which DuckDB scans two to three times faster
HIDDEN = "lance of "  # prefix of the names under which larger tables are registered, below their views
FILES = ("png",)
HASH = r"-[0-9a-f]{12}$"

# Views made of others, in the order in which they are made. Several groupings of a data set may be stored, and a run
# is made anew when its pixels change; what counts now is the newest, and of runs first those of the pixels of now.
JOINED = {
    "current_groups": """
SELECT * FROM groups g SEMI JOIN (
    SELECT dataset, grouping FROM groups GROUP BY dataset, grouping
    QUALIFY row_number() OVER (PARTITION BY dataset ORDER BY max(grouped_at) DESC NULLS LAST, grouping DESC) = 1
) newest ON g.grouping = newest.grouping AND g.dataset IS NOT DISTINCT FROM newest.dataset
""",
    # What runs.inputs_sha256 would be now; no row where an image of the split has no vector of its present pixels. Of a
    # model without vectors, which a method trained from pictures, it is what its pictures say.
    "split_inputs": """
WITH pictured AS (
    SELECT s.split_id, p.recipe_id,
        sha256(string_agg(s.image_id || ' ' || p.pixels_sha256, chr(10) ORDER BY s.image_id)) AS inputs_sha256
    FROM (SELECT *, count(*) OVER (PARTITION BY split_id) AS n FROM splits WHERE part IN ('train', 'val', 'test')) s
    JOIN images i USING (image_id)
    JOIN preprocessed p ON p.image_id = s.image_id AND p.source_sha256 = i.pixels_sha256
    GROUP BY s.split_id, p.recipe_id HAVING count(*) = any_value(s.n)
)
SELECT r.split_id, r.model_id, r.recipe_id, p.inputs_sha256
FROM (SELECT DISTINCT split_id, model_id, recipe_id FROM runs) r JOIN pictured p USING (split_id, recipe_id)
ANTI JOIN embeddings e ON e.model_id = r.model_id AND e.recipe_id = r.recipe_id
UNION ALL
SELECT s.split_id, e.model_id, e.recipe_id,
       sha256(string_agg(s.image_id || ' ' || e.input_sha256, chr(10) ORDER BY s.image_id)) AS inputs_sha256
FROM (SELECT *, count(*) OVER (PARTITION BY split_id) AS n FROM splits WHERE part IN ('train', 'val', 'test')) s
JOIN images i USING (image_id)
JOIN preprocessed p ON p.image_id = s.image_id AND p.source_sha256 = i.pixels_sha256
JOIN embeddings e ON e.image_id = s.image_id AND e.recipe_id = p.recipe_id AND e.input_sha256 = p.pixels_sha256
GROUP BY s.split_id, e.model_id, e.recipe_id HAVING count(*) = any_value(s.n)
""",
    "current_runs": """
SELECT r.*, json_extract_string(r.details, '$.text_id') AS text_id
FROM runs r LEFT JOIN split_inputs n USING (split_id, model_id, recipe_id) WHERE r.status = 'done'
QUALIFY row_number() OVER (
    PARTITION BY r.dataset, r.split_id, r.episode_id, r.method, r.model_id, r.recipe_id, r.parameters, r.protocol,
        text_id
    ORDER BY r.inputs_sha256 IS NOT DISTINCT FROM n.inputs_sha256 DESC, r.finished_at DESC NULLS LAST, r.run_id DESC
) = 1
""",
    "results": """
SELECT r.run_id, r.method, r.model, r.model_id, r.recipe, r.recipe_id, r.dataset, r.split_id, r.episode_id, r.shots,
       r.ratio, r.seed, r.protocol, r.parameters, r.text_id, r.n_labelled, r.n_test, r.exposure_support,
       r.exposure_val, r.seconds,
       m.subject, m.metric, m.class, m.value, m.n_used
FROM metrics m JOIN current_runs r USING (run_id)
""",
    # One row an image, with what is known of it, for conditions such as "n_lesions > 1 AND label = 'benign'".
    "image_facts": """
SELECT i.*, m.area_px, m.bbox_px, m.n_masks, m.n_lesions, m.touches_edge, m.is_empty,
       g.grouping, g.group_id, g.size, g.max_similarity, g.spans_classes
FROM images i LEFT JOIN masks m ON m.image_id = i.image_id AND m.source_id = 'truth'
LEFT JOIN current_groups g ON g.image_id = i.image_id AND g.dataset IS NOT DISTINCT FROM i.dataset
""",
    # What segmentations.inputs_sha256 would be now: the pictures and true masks of a part.
    "part_inputs": """
SELECT s.split_id, s.part, sha256(string_agg(
    s.image_id || ' ' || i.pixels_sha256 || ' ' || t.png_crc32, chr(10) ORDER BY s.image_id
)) AS inputs_sha256
FROM splits s LEFT JOIN images i USING (image_id)
LEFT JOIN masks t ON t.image_id = s.image_id AND t.source_id = 'truth'
GROUP BY s.split_id, s.part HAVING count(*) = count(i.pixels_sha256) AND count(*) = count(t.png_crc32)
""",
    # Of each segmenter, split, part, prompt and proposer the masks that count: those of the truth of now, then the
    # newest. A patch probe that was fitted anew is the same proposer.
    "newest_segmentations": """
SELECT g.*, n.inputs_sha256 AS inputs_now, g.inputs_sha256 IS NOT DISTINCT FROM n.inputs_sha256 AS is_current
FROM segmentations g LEFT JOIN part_inputs n USING (split_id, part)
QUALIFY row_number() OVER (
    PARTITION BY g.segmenter_id, g.split_id, g.part, g.prompt,
        regexp_replace(g.proposer, '(^patch-probe)-.*|[.][0-9a-f]+$', '\\1')
    ORDER BY is_current DESC, g.finished_at DESC NULLS LAST, g.source_id
) = 1
""",
    "current_segmentations": """
SELECT * EXCLUDE (inputs_now, is_current) FROM newest_segmentations WHERE is_current
""",
    # One row an image under each of those masks, with its metrics and the size of its true lesions.
    "mask_results": """
SELECT g.source_id, g.segmenter, g.init, g.prompt, g.proposer, g.part, g.segmenter_id, g.dataset, g.split_id,
       m.subject AS image_id, i.label, t.area_px AS lesion_area_px,
       t.area_px / (i.width_px::DOUBLE * i.height_px) AS lesion_share,
       max(m.value) FILTER (m.metric = 'dice') AS dice,
       max(m.value) FILTER (m.metric = 'hd95') AS hd95_px,
       max(m.value) FILTER (m.metric = 'nsd_3px') AS nsd_3px,
       max(m.value) FILTER (m.metric = 'hd_bussam_compat') AS hd_bussam_compat,
       max(m.value) FILTER (m.metric = 'missed') AS missed,
       max(m.value) FILTER (m.metric = 'false_positive') AS false_positive,
       max(m.value) FILTER (m.metric = 'n_lesions') AS n_lesions,
       max(m.value) FILTER (m.metric = 'n_lesions_found') AS n_found,
       max(m.value) FILTER (m.metric = 'n_false_lesions') AS n_false_marks
FROM current_segmentations g JOIN metrics m ON m.run_id = g.source_id
JOIN images i ON i.image_id = m.subject
LEFT JOIN masks t ON t.image_id = m.subject AND t.source_id = 'truth'
GROUP BY ALL
""",
}


# The 0.975 quantile of Student's t: 1 to 30 degrees of freedom, and Cornish and Fisher's series beyond.
STUDENT_975 = """
CREATE MACRO student_975(df) AS coalesce(([
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452, 2.0423
])[df], 1.95996 + 2.3722 / df + 2.8225 / df ** 2)
"""


def create_views(con, store: Store) -> None:
    """Make every view of the store in a DuckDB connection.

    Raises:
        StoreError: a table cannot be read.
    """
    con.execute(STUDENT_975)
    names = store.names()
    stored = [n for n in names if not n.startswith(TOKENS)]
    for name in [*TABLES, *(n for n in stored if n not in TABLES)]:
        if name in stored:
            _view_of(con, store, name)
        else:
            con.register(name, _without_files(TABLES[name].schema).empty_table())
    con.execute(_embeddings_view([n for n in stored if _ids(n)]))
    con.register("token_tables", _token_tables(store, [n for n in names if n.startswith(TOKENS)]))
    for name, text in JOINED.items():
        con.execute(f"CREATE VIEW {name} AS {text}")


def _token_tables(store: Store, names: list[str]) -> pa.Table:
    """One row for each table of tokens, which SQL itself does not read: what it holds and of how many images."""
    columns = ("model", "model_id", "recipe_id", "layer", "dtype", "shape", "n_images")
    kinds = [pa.string()] * 6 + [pa.int64()]
    rows = []
    for name in names:
        parts = re.fullmatch(r"(.+)\.([^.]+)\.(grid|h\d+|vit|embedding)(\.\w+)?", name.removeprefix(TOKENS))
        if parts is None:
            continue
        model_id, recipe_id, layer, dtype = parts.groups()
        shape = store.dataset(name).schema.metadata[b"shape"].decode()
        model, kind = re.sub(HASH, "", model_id), (dtype or ".float16")[1:]
        rows.append((model, model_id, recipe_id, layer, kind, shape, store.count(name)))
    arrays = [pa.array([row[k] for row in rows], kind) for k, kind in enumerate(kinds)]
    return pa.table(arrays, names=columns)


def view_names(con) -> list[str]:
    """Names of the views that a user may read, sorted."""
    rows = con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    return [name for (name,) in rows if not name.startswith(HIDDEN)]


def quoted(name: str) -> str:
    """A name as an SQL identifier.

    >>> quoted("embeddings.clip")
    '"embeddings.clip"'
    """
    return '"' + name.replace('"', '""') + '"'


def _view_of(con, store: Store, name: str) -> None:
    later = _later_columns(store, name)
    if store.count(name) <= SNAPSHOT_ROWS:
        rows = store.read(name)
        for field in later:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        con.register(name, rows)
        return
    dataset = store.dataset(name)
    con.register(HIDDEN + name, dataset)
    columns = ", ".join(map(quoted, _without_files(dataset.schema).names))
    text = f"CREATE VIEW {quoted(name)} AS SELECT {columns} FROM {quoted(HIDDEN + name)}"
    if later:
        con.register(f"{HIDDEN}{name} later", pa.schema(later).empty_table())
        text += f" UNION ALL BY NAME SELECT * FROM {quoted(f'{HIDDEN}{name} later')}"
    con.execute(text)


def _later_columns(store: Store, name: str) -> list[pa.Field]:
    """Columns that a table did not have when the store was begun."""
    stored = store.dataset(name).schema.names
    return [f for f in _without_files(TABLES[name].schema) if f.name not in stored] if name in TABLES else []


def _without_files(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f for f in schema if f.name not in FILES])


def _ids(table: str) -> tuple[str, str] | None:
    """(model_id, recipe_id) of an embeddings table's name; None for another table.

    >>> _ids("embeddings.clip-vit-b16-0a1b2c3d4e5f.pad224-5e4d3c2b1a00")
    ('clip-vit-b16-0a1b2c3d4e5f', 'pad224-5e4d3c2b1a00')
    """
    found = re.fullmatch(r"embeddings\.(.+)\.([^.]+)", table)
    return (found[1], found[2]) if found else None


def _embeddings_view(tables: list[str]) -> str:
    """All vectors of all models in one view; typed and empty where there are none."""
    parts = [_embeddings_part(name, *_ids(name)) for name in tables]
    if not parts:
        columns = [f.name for f in embeddings_table("", "", 1).schema if f.name not in ("image_id", "vector")]
        names = ["image_id", "model", "recipe", *columns]
        nothing = ", ".join(f"NULL::{'UINTEGER' if n == 'crc32' else 'VARCHAR'} AS {n}" for n in names)
        parts = [f"SELECT {nothing}, NULL::FLOAT[] AS vector WHERE false"]
    return "CREATE VIEW embeddings AS " + " UNION ALL BY NAME ".join(parts)


def _embeddings_part(table: str, model_id: str, recipe_id: str) -> str:
    model, recipe = (_text(re.sub(HASH, "", name)) for name in (model_id, recipe_id))
    return (
        f"SELECT image_id, {model} AS model, model_id, {recipe} AS recipe, recipe_id, input_sha256, crc32, "
        f"vector::FLOAT[] AS vector FROM {quoted(table)}"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
