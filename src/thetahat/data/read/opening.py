"""The bytes of a file, whatever it is compressed with."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

from thetahat.core.errors import DataError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ORDER_MARK = b"\xef\xbb\xbf"  # at the start of lines of JSON it says UTF-8, and is no part of them


def _open(path: Path, compression: str) -> BufferedIOBase:
    match compression:
        case ".gz":
            return gzip.GzipFile(path)
        case ".bz2":
            return bz2.BZ2File(path)
        case ".xz":
            return lzma.LZMAFile(path)
        case ".zst":
            stream: Any = pa.input_stream(str(path), compression="zstd")
            return BufferedReader(stream)
        case _:
            return path.open("rb")


@contextmanager
def opening(path: Path, compression: str | None = None) -> Generator[BufferedIOBase]:
    """A file to read bytes from; by `compression`, or by the ending of its name.

    Raises DataError where the file is damaged, or may not be read, whenever that shows.
    """
    compression = path.suffix.lower() if compression is None else compression
    try:
        with _open(path, compression) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise _damaged(path, error) from error
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: permission denied") from error
    except OSError as error:
        if compression in COMPRESSIONS and error.errno is None:  # bz2's and pyarrow's
            raise _damaged(path, error) from error
        raise


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error}", cure="copy or download it again")
