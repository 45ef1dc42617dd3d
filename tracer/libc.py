"""Functions of libc, and the C types that they take: what binds libc for `enforce` and for `learn` alike.

The types are from `_ctypes`, the module in C that ctypes is made of, since importing ctypes takes
2 ms of each start of `enforce`.
"""

from __future__ import annotations

import os

from tracer.linux import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import (
        CDLL,
        Array,
        Structure,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_int32,
        c_int64,
        c_long,
        c_size_t,
        c_uint8,
        c_uint32,
        c_uint64,
        c_ulong,
        c_ushort,
        c_void_p,
        get_errno,
        pythonapi,
        set_errno,
        sizeof,
    )

    functions = CDLL(None, use_errno=True)
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        CFuncPtr,
        Structure,
        _SimpleCData,
        addressof,
        byref,
        dlopen,
        get_errno,
        set_errno,
        sizeof,
    )

    def _simple(code):
        """The type of a C value, by its letter in struct's formats; `P` and `z` are ctypes' own: a pointer, a string."""
        return type(_SimpleCData)(f"c_{code}", (_SimpleCData,), {"_type_": code})

    c_char, c_char_p, c_void_p = map(_simple, "czP")
    c_int, c_long, c_ulong, c_ushort, c_uint8, c_uint32 = map(_simple, "ilLHBI")
    c_int32, c_int64, c_uint64, c_size_t = c_int, c_long, c_ulong, c_ulong

    class _Functions:
        """The functions of this process by name; each returns an int unless its `restype` is set."""

        def __init__(self, flags):
            self._handle = dlopen(None, 0)
            self._type = type(CFuncPtr)("Function", (CFuncPtr,), {"_flags_": flags, "_restype_": c_int})

        def __getattr__(self, name):
            function = self._type((name, self))
            setattr(self, name, function)
            return function

    functions = _Functions(FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO)
    pythonapi = _Functions(FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI)

__all__ = [
    "FilterProgram", "Structure", "addressof", "byref", "c_char", "c_char_p", "c_int", "c_int32", "c_int64", "c_long",
    "c_size_t", "c_uint8", "c_uint32", "c_uint64", "c_ulong", "c_ushort", "c_void_p", "checked", "functions", "get_errno",
    "prctl", "pythonapi", "refused", "set_errno", "sizeof", "strings", "syscall",
]

functions.syscall.restype = c_long
functions.ptrace.restype = c_long
functions.ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
functions.signal.restype = c_void_p
functions.signal.argtypes = (c_int, c_void_p)
functions.mmap.restype = c_void_p
functions.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)


class FilterProgram(Structure):
    """struct sock_fprog (linux/filter.h), the 64-bit layout: what seccomp(2) and prctl(2) take for a filter."""

    _fields_ = (("length", c_ushort), ("instructions", c_char_p))

    @classmethod
    def of(cls, filter_: bytes) -> FilterProgram:
        """The struct for an array of struct sock_filter, 8 bytes each."""
        return cls(len(filter_) // 8, filter_)


def refused(call: str) -> OSError:
    """The OSError for the errno that a function has just set, with the call's name as its `filename`."""
    number = get_errno()
    return OSError(number, os.strerror(number), call)


def checked(result: int, call: str) -> int:
    """Return the result of a call, or raise `refused(call)` if it is negative."""
    if result < 0:
        raise refused(call)
    return result


def syscall(name: str, *arguments: object) -> int:
    """Make a system call of x86_64 and return its result, -1 if it fails; integers are passed at their full 64 bits."""
    return int(functions.syscall(c_long(NUMBERS[name][0]), *map(_wide, arguments)))


def prctl(operation: int, *arguments: object) -> int:
    """Make a prctl(2) with up to four arguments and return its result, -1 if it fails."""
    return int(functions.prctl(operation, *map(_wide, (*arguments, 0, 0, 0, 0)[:4])))


def strings(words: Sequence[bytes]) -> Array[c_char_p]:
    """The array of strings, with NULL at its end, that execve(2) takes as `argv` and as `envp`."""
    return (c_char_p * (len(words) + 1))(*words, None)


def _wide(argument: object) -> object:
    return c_long(argument) if isinstance(argument, int) else argument
