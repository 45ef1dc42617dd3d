"""A policy -> what is dangerous in it (`findings`), by a catalogue (`catalogue`)."""
