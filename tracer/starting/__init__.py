"""The start of the program to be learned, and the one fork that there is."""
