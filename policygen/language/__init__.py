"""Parse a policy's text into a `Policy` and the text's layout (`parser`, `document`), and print them again (`printer`)."""
