"""Recordings and logs of many hosts as Parquet files (`adding`), which SQL folds (`folding`) and answers questions about
(`asking`).  `schema` has the tables, `command` the command line."""
