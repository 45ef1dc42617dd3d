"""Events -> observations, folded (`fold`), and recordings of runs (`model`): merged (`many`), read and written (`recording_file`)."""
