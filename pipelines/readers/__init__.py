"""Step ingest: how records are read (bronze.documents, bronze.rejects). A reader is a pair of functions in a file of
its own.

Adding one is a file and a line here.

    text          one document a file
    jsonl         one JSON object a line
    parquet       one record a row
    chat          conversations
    html          web pages
    warc          web archives: WARC and WET
    tree          source trees
    python        this machine's Python installation

What they share:

    ingest        readers -> documents and rejects, in Spark
    files         files in a fixed order; one text as a record or a reject
    compressed    gzip, zstd, bzip2, xz unpacked in bounded pieces
    delta         folders that are tables, at a version
    hive          columns that folders stand for
    archives      zip and tar as folders
    members       one member, and what an archive may cost
    zip_members   of a zip
    tar_members   of a tar
    warc_records  records of a web archive
    responses     HTTP responses in them
    docstrings    of Python modules
    suffixes      what a file is by its name
    notebook      Jupyter notebooks as Markdown
    licences      which licence a text is
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipelines.readers import chat, html, jsonl, parquet, python, text, tree, warc
from pipelines.readers.files import File, Record, Reject
from schemas.parts import Source


class Reader(NamedTuple):
    """`list_files` (source, seed) runs on the driver and raises RecipeError; `read` (file, source) runs in workers and
    raises OSError."""

    list_files: Callable[[Source, int], list[File]]
    read: Callable[[File, Source], Iterator[Record | Reject]]


READERS: dict[str, Reader] = {
    "chat": Reader(jsonl.list_files, chat.read),
    "html": Reader(html.list_files, html.read),
    "jsonl": Reader(jsonl.list_files, jsonl.read),
    "parquet": Reader(parquet.list_files, parquet.read),
    "python-code": Reader(python.list_code, python.read_code),
    "python-docs": Reader(python.list_docs, python.read_docs),
    "text": Reader(text.list_files, text.read),
    "tree": Reader(tree.list_files, tree.read),
    "warc": Reader(warc.list_warc, warc.read_warc),
    "wet": Reader(warc.list_wet, warc.read_wet),
}
