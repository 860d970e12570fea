"""What the name of a dataset means: its kind, names near one that is missing, standard input."""
