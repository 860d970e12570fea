import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from thetahat.core import errors
from thetahat.core.errors import ConfigError, DiskFullError, ThetahatError, naming_full_disk

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ThetahatError)]


def test_each_error_has_an_exit_code_of_its_own():
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes == {
        "ThetahatError": 1,
        "ConfigError": 2,
        "DataError": 3,
        "ModelError": 4,
        "DamagedError": 4,
        "NonFiniteError": 5,
        "VerificationError": 6,
        "FolderError": 7,
        "DiskFullError": 8,
        "OutOfMemoryError": 9,
        "StoppedError": 10,
        "LostRankError": 11,
    }


def test_an_error_says_what_came_what_is_allowed_and_what_to_type():
    error = ConfigError("device=tpu does not fit", allowed="cpu, cuda", cure="device=cpu")
    assert str(error) == "device=tpu does not fit\n  allowed: cpu, cuda\n  try: device=cpu"
    assert isinstance(error, ValueError)


def test_a_full_disk_is_named():
    with pytest.raises(DiskFullError, match="no space left while writing out") as raised, naming_full_disk(Path("out")):
        Path("/dev/full").write_text("a byte")
    assert raised.value.exit_code == 8
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError("Failed to write. Detail: [errno 28] No space left on device"),  # pyarrow's
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_in_every_dialect(error):
    with pytest.raises(DiskFullError), naming_full_disk(Path("out")):
        raise error


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), ValueError("os error 2"), ConfigError("28 is too many")]
)
def test_other_errors_keep_their_names(error):
    with pytest.raises(type(error)) as raised, naming_full_disk(Path("out")):
        raise error
    assert raised.value is error
