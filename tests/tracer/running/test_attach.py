"""What is read of a process that runs already: its filters."""

from __future__ import annotations

import errno

import pytest

from callfence.tracer import kernel
from callfence.tracer.errors import PtraceError
from callfence.tracer.running import attach

FILTERS = [b"newest", b"", b"oldest"]


@pytest.mark.parametrize(
    ("error", "filters"),
    [(errno.ENOENT, FILTERS), (errno.EINVAL, FILTERS), (errno.ENOENT, []), (errno.EACCES, []), (errno.ESRCH, FILTERS)],
)
def test_all_filters_of_a_task_are_read(monkeypatch: pytest.MonkeyPatch, error: int, filters: list[bytes]) -> None:
    """Until the kernel has no more of them; another error is one."""

    def length(pid: int, index: int) -> int:
        if index == len(filters):
            raise PtraceError("no", "PTRACE_SECCOMP_GET_FILTER", error)
        return len(filters[index])

    def content(pid: int, index: int, size: int) -> bytes:
        assert (pid, size) == (7, len(filters[index]))
        return filters[index]

    monkeypatch.setattr(kernel, "filter_length", length)
    monkeypatch.setattr(kernel, "filter_content", content)
    if error in (errno.ENOENT, errno.EINVAL):
        assert attach._filters(7) == filters
    else:
        with pytest.raises(PtraceError):
            attach._filters(7)


def test_the_filters_of_each_thread_are_counted_where_the_kernel_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {8: {"Seccomp_filters": "3"}, 7: {"Seccomp_filters": "0"}, 9: {}}
    monkeypatch.setattr(attach, "numbers_in", lambda path: {"7/task": {9, 8, 7}}[path])
    monkeypatch.setattr(attach, "fields_of", status.__getitem__)
    assert attach.filter_counts(7) == {7: 0, 8: 3}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ESRCH, "there is no such process"),
        (errno.EPERM, "not permitted, or it is traced already (TracerPid in /proc/7/status)"),
        (errno.EACCES, "it needs CAP_SYS_ADMIN, and no filter on this process"),
        (errno.EIO, "this kernel was built without CONFIG_CHECKPOINT_RESTORE"),
        (errno.EMEDIUMTYPE, "the kernel has not kept what they were made from"),
        (errno.EBUSY, "Device or resource busy"),
        (0, "Invalid argument"),
    ],
)
def test_why_it_cannot_be_followed(number: int, reason: str) -> None:
    assert attach._reason(PtraceError("no", "ptrace", number), 7) == reason
