"""Files that lie in object stores and behind web addresses."""
