"""Two policies -> their exact differences (`compare`), or the first without what the second does not allow (`reduce`)."""
