"""`Policy` -> the kernel's filter (`compile`), proved equal to it (`verify`); any filter -> `Policy` (`lift`)."""
