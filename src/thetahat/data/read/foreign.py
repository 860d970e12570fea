"""Files that are not read: what they are, by their first bytes or by their names, and what makes text of them."""

from pathlib import Path

MAGIC = {
    b"\xff\xfe\0\0": ("UTF-32", "iconv -f UTF-32 -t UTF-8 {0} > NEW{1}"),
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {0} > NEW{1}"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {0} > NEW{1}"),
    b"\x1f\x8b": ("compressed by gzip", "mv {0} {0}.gz"),
    b"BZh": ("compressed by bzip2", "mv {0} {0}.bz2"),
    b"\xfd7zXZ": ("compressed by xz", "mv {0} {0}.xz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "mv {0} {0}.zst"),
    b"PK\3\4": ("a zip archive", "unzip {0}"),
    b"PAR1": ("Parquet", "mv {0} {0}.parquet"),
    b"ARROW1": ("Arrow", "mv {0} {0}.arrow"),
    b"\xff\xff\xff\xff": ("Arrow", "mv {0} {0}.arrow"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file", "git lfs pull, in the folder of the file"),
}
"""How other files begin, what they are, and what makes them text."""

_ARCHIVE = "mkdir FOLDER && {} FOLDER, and name FOLDER"
_SHEET = ("a spreadsheet", "save it as CSV in UTF-8: libreoffice --headless --convert-to csv {0}")
_PAGES = ("pages with markup", "pandoc -t plain {0} -o {1}.txt")
ENDINGS = {
    ".zip": ("an archive of files", _ARCHIVE.format("unzip {0} -d")),
    ".7z": ("an archive of files", _ARCHIVE.format("7z x {0} -o")),
    **dict.fromkeys((".tar", ".tgz", ".tbz2", ".txz"), ("an archive of files", _ARCHIVE.format("tar -xf {0} -C"))),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SHEET),
    **dict.fromkeys((".docx", ".odt", ".rtf", ".epub", ".html", ".htm"), _PAGES),
    ".pdf": ("pages", "pdftotext {0} {1}.txt"),
    ".doc": ("pages of Word", "libreoffice --headless --convert-to txt {0}"),
}
"""How the names of other files end, what they are, and what makes files of them that are read."""


def recognised(path: Path, start: bytes, kind: str) -> tuple[str, str] | None:
    """What a file is that begins with these 64 bytes, and what makes text of it; None where that shows nothing."""
    if magic := next((magic for magic in MAGIC if start.startswith(magic)), None):
        what, cure = MAGIC[magic]
        return what, cure.format(path, kind)
    even, odd = any(start[::2]), any(start[1::2])  # two bytes a character, one of which is 0 in most alphabets
    if len(start) >= 8 and even != odd:
        return "UTF-16", f"iconv -f UTF-16{'LE' if even else 'BE'} -t UTF-8 {path} > NEW{kind}"
    return None


def refused_by_name(path: Path, kind: str) -> tuple[str, str]:
    """What a file of this ending is, and what to type; two empty texts where nothing is known of it."""
    what, cure = ENDINGS.get(kind, ("", ""))
    return what, cure.format(path, path.name.partition(".")[0])
