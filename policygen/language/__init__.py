"""Parse a policy's text into a `Policy` and the text's layout (`parser`, `document`), and print them again (`printer`)."""

from callfence.policygen.versions import LANGUAGE as LANGUAGE_VERSION

__all__ = ["LANGUAGE_VERSION"]
