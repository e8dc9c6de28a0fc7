"""The reader of `torch.save`'s archives gives what torch's own gives, and runs nothing."""

import io
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from autocompress.errors import StoreError
from autocompress.formats.archive import read_archive


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def read(data):
    return read_archive(memoryview(bytearray(data)))


def rewritten(data, change):
    """The archive with its records as `change(name, bytes)` gives them; None leaves one out."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
        for entry in source.infolist():
            content = change(entry.filename.partition("/")[2], source.read(entry))
            if content is not None:
                file.writestr(entry.filename, content)
    return target.getvalue()


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type(dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    found = read(saved({"a": tensor, "transposed": tensor.t()}))
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["transposed"], tensor.t())
    assert found["a"].dtype is dtype


def test_a_state_dict_of_a_model():
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    found = read(saved(state))
    assert isinstance(found, OrderedDict)
    assert list(found) == list(state)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_memory_that_tensors_share_is_shared_again():
    whole = torch.zeros(6)
    found = read(saved({"whole": whole, "part": whole[2:4]}))
    found["whole"].fill_(1.0)
    assert found["part"].tolist() == [1.0, 1.0]


def test_plain_values_and_what_is_empty():
    found = read(saved({"epoch": 3, "names": ["a", "b"], "rate": 0.5, "empty": torch.empty(0, 2), "none": None}))
    assert found["empty"].shape == (0, 2)
    assert (found["epoch"], found["names"], found["rate"], found["none"]) == (3, ["a", "b"], 0.5, None)


class Runs:
    def __reduce__(self):
        return print, ("it was run",)


def test_nothing_else_is_named_or_run(capsys):
    with pytest.raises(StoreError, match="its index must not name"):
        read(saved({"a": Runs()}))
    assert capsys.readouterr().out == ""


def test_records_must_be_whole():
    data = saved({"a": torch.ones(4)})
    with pytest.raises(StoreError, match=r"record '?0'? must have 16 bytes|record .* of at most 16 bytes"):
        read(rewritten(data, lambda name, content: content[:-1] if name == "data/0" else content))
    with pytest.raises(StoreError, match="must have a record"):
        read(rewritten(data, lambda name, content: None if name == "data/0" else content))
    with pytest.raises(StoreError, match="an archive of tensors and of nothing else"):
        read(data.replace(b"/version", b"/verzion"))


@pytest.mark.parametrize("data", [b"", b"PK", b"no archive at all", bytes(1000)])
def test_other_files_are_refused(data):
    with pytest.raises(StoreError, match=r"not an archive as torch\.save writes it"):
        read(data)
