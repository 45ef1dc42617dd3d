"""The part of ctypes that is needed here, from the module in C that ctypes uses: importing ctypes takes 2 ms of each start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,
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

    libc = CDLL(None, use_errno=True)
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
        """The functions of this process, by name, with int as the type of their result."""

        def __init__(self, flags):
            self._handle = dlopen(None, 0)
            self._type = type(CFuncPtr)("Function", (CFuncPtr,), {"_flags_": flags, "_restype_": c_int})

        def __getattr__(self, name):
            function = self._type((name, self))
            setattr(self, name, function)
            return function

    libc = _Functions(FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO)
    pythonapi = _Functions(FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI)

__all__ = [
    "Structure", "addressof", "byref", "c_char", "c_char_p", "c_int", "c_int32", "c_int64", "c_long", "c_size_t", "c_uint8",
    "c_uint32", "c_uint64", "c_ulong", "c_ushort", "c_void_p", "get_errno", "libc", "pythonapi", "set_errno", "sizeof",
]
