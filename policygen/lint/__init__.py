"""Find the dangerous grants of a policy (`findings`), by a catalogue (`catalogue`)."""
