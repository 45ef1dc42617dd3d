"""Events -> observations (`fold`); recordings of runs (`model`), merged (`many`), read and written (`recording_file`)."""
