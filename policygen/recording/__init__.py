"""Fold events into observations (`fold`), keep them as recordings of runs (`model`), merge these (`many`), and read and write
them (`recording_file`)."""
