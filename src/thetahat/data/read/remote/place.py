"""What lies behind a URL: the library that reads its scheme, its objects, and what went wrong in words."""

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast
from urllib.parse import unquote

from thetahat.core.errors import DataError

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE | re.DOTALL)
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp requests",
    "https": "aiohttp requests",
    "hf": "huggingface_hub",
    "oci": "ocifs",
    "oss": "ossfs",
    "sftp": "paramiko",
    "webhdfs": "requests",
}
"""By scheme, the packages that it needs beside fsspec."""

_SHOWN = ("s3", "gs", "az", "http", "https", "hf", "sftp")
_KEYS = {
    "s3fs": "credentials in AWS_PROFILE, or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for another store than "
    "Amazon's its address in AWS_ENDPOINT_URL",
    "gcsfs": "gcloud auth application-default login",
    "adlfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "huggingface_hub": "hf auth login",
}
"""By package, what gives access."""

_LIBRARIES = frozenset(
    (
        *("aiohttp", "aiobotocore", "asyncio", "botocore", "s3fs", "gcsfs", "google", "adlfs", "azure"),
        *("fsspec", "httpx", "huggingface_hub", "paramiko", "requests", "urllib3"),
    )
)
"""Whose errors are about a store, and not about a fault of ours."""


_REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled")


def _code_of(error: Exception) -> str:
    """The code that S3 gives an error."""
    response = getattr(error, "response", None)
    return str(cast("dict[str, Any]", response).get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def is_url(spec: str) -> bool:
    """Whether a place is a URL: SCHEME://..."""
    return _URL.match(spec) is not None


@dataclass(frozen=True, slots=True)
class Object:
    """A file behind a URL, and what changes with its content."""

    url: str
    size: int | None  # bytes
    version: tuple[str, ...]  # its ETag or checksum, and when it was changed; empty where nobody says

    @property
    def name(self) -> str:
        """Its name, without what a web address asks for behind it."""
        name = unquote(PurePosixPath(re.split(r"[?#]", self.url, maxsplit=1)[0]).name)
        return re.sub(r"[/\0]", "_", name) if name.strip(".") else "object"


class Store:
    """What reads URLs of one scheme."""

    def __init__(self, spec: str) -> None:
        match = _URL.match(spec)
        assert match is not None
        self.scheme, self.rest = match[1].lower(), match[2]
        if self.scheme not in _PACKAGES:
            allowed = ", ".join(f"{scheme}://" for scheme in _SHOWN) + ", or a path of this machine"
            raise DataError(f"{spec}: nothing here reads {self.scheme}://", allowed=allowed)
        self._files = self._opened(spec)

    def _opened(self, spec: str, **options: Any) -> Any:
        import fsspec  # most data lies on this machine

        try:
            return fsspec.filesystem(self.scheme, use_listings_cache=False, **options)
        except ImportError as error:
            package = _PACKAGES[self.scheme]
            what = f"{spec}: {self.scheme}:// needs {' and '.join(package.split())}, which is not installed"
            raise DataError(what, cure=f"pip install {package}") from error

    @property
    def is_web(self) -> bool:
        """Whether it has single addresses, not folders."""
        return self.scheme in ("http", "https")

    def found(self, spec: str) -> list[Object]:
        """The objects that a URL, a folder or a glob names, in the order of their names; raises DataError if none."""
        try:
            try:
                objects = self._found(spec)
            except Exception as error:
                if type(error).__name__ != "NoCredentialsError":
                    raise
                self._files = self._opened(spec, anon=True)  # what is public needs none
                objects = self._found(spec)
        except Exception as error:
            if (told := self.told(error, spec)) is None:
                raise
            raise told from error
        if not objects:
            raise DataError(f"no such object: {spec}", allowed="an object, a folder/, or a glob with * in it")
        return sorted(objects, key=lambda one: one.url)

    def _found(self, spec: str) -> list[Object]:
        if "*" in spec or (not self.is_web and re.search(r"[?\[]", spec)):
            listed = self._files.glob(spec, detail=True)
        elif spec.endswith("/"):
            listed = self._files.find(spec, detail=True)
        else:
            info = self._files.info(spec)
            if info.get("type") == "directory":
                listed = self._files.find(spec, detail=True)
            else:
                return [self._object(spec, info)]
        return [self._object(name, info) for name, info in listed.items() if info.get("type") != "directory"]

    def _object(self, name: str, info: dict[str, Any]) -> Object:
        url = name if is_url(name) else f"{self.scheme}://{name}"
        if self.is_web and "ETag" not in info and "Last-Modified" not in info:
            info = info | self._files.info(url)  # a page that lists files says nothing of them
        checks = (info.get(one) for one in ("ETag", "etag", "Content-MD5", "md5Hash", "version_id", "blob_id"))
        times = (info.get(one) for one in ("LastModified", "Last-Modified", "last_modified", "updated", "mtime"))
        version = [str(next((one for one in some if one), "")) for some in (checks, times)]
        size = info.get("size")
        return Object(url, None if size is None else int(size), tuple(version) if any(version) else ())

    def open(self, one: Object, *, in_parts: bool) -> Any:
        """A file to read from: in parts that can be asked for from any place, or from its beginning to its end."""
        if in_parts and one.size is not None:
            return self._files.open(one.url, "rb", cache_type="none", size=one.size)
        return self._files.open(one.url, "rb", block_size=0) if self.is_web else self._files.open(one.url, "rb")

    def told(self, error: Exception, url: str, progress: str = "") -> DataError | None:
        """What went wrong, in words; None for what is no matter of the store."""
        if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # whatever a web server does not give is not found, fsspec says
        of_library = type(error).__module__.partition(".")[0] in _LIBRARIES
        status = getattr(error, "status", None) or _code_of(error)
        if isinstance(error, FileNotFoundError) or status in (404, 410, "NoSuchBucket", "NoSuchKey"):
            return DataError(f"no such object: {url}", allowed="an object, a folder/, or a glob with * in it")
        names = {type(one).__name__ for one in (error, error.__cause__) if one is not None}
        if isinstance(error, PermissionError) or status in (401, 403, *_REFUSALS) or "NoCredentialsError" in names:
            cure = _KEYS.get(_PACKAGES[self.scheme], "an address that needs no login, or a copy of the file")
            return DataError(f"access to {url} was refused", cure=cure)
        if not of_library and not isinstance(error, OSError | EOFError | TimeoutError):
            return None
        said = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"{url} was not read to its end: {progress}; {said}" if progress else f"{url} cannot be read: {said}"
        again = "the same command again; what has arrived is kept" if progress else f"look whether {self._host} answers"
        return DataError(what, cure=again)

    @property
    def _host(self) -> str:
        return os.environ.get("AWS_ENDPOINT_URL", "the store") if not self.is_web else self.rest.partition("/")[0]
