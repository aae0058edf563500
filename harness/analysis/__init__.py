"""What records say, worked out once for every table, figure and verdict. Neither drawn nor written here."""
