"""Tables of other programs: which files of a folder belong together, and the rows of a file."""
