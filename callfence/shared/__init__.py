"""What several commands need: the files that they are given, text for people, the terminal."""
