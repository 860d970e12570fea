"""Files and folders as other programs lay them, written by pyarrow."""

import json

import pyarrow as pa
from pyarrow import ipc, parquet


def table_of(rows):
    """Every field of any row is a column, and null where a row has none."""
    if isinstance(rows, pa.Table):
        return rows
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def write_arrow(path, rows, chunk=2):
    """A stream, as `datasets` writes it."""
    table = table_of(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return path


def write_parquet(path, rows):
    table = table_of(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=3)
    return path


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def save_to_disk(folder, rows, num_shards=1):
    """What Dataset.save_to_disk leaves."""
    names = [f"data-{index:05}-of-{num_shards:05}.arrow" for index in range(num_shards)]
    table = table_of(rows)
    size = -(-len(rows) // num_shards)
    for index, name in enumerate(names):
        write_arrow(folder / name, table.slice(index * size, size))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "9eefb142cb2e77fb"}
    usual = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    write_json(folder / "state.json", state | usual | {"_split": None})
    write_json(folder / "dataset_info.json", {"citation": "", "description": "", "features": {}, "homepage": ""})
    return folder


def save_splits(folder, splits):
    """What DatasetDict.save_to_disk leaves."""
    for name, rows in splits.items():
        save_to_disk(folder / name, rows)
    write_json(folder / "dataset_dict.json", {"splits": [*splits]})
    return folder
