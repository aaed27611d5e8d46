"""The parts of a summary: the columns of a table, a CSV file and sentences each."""
