"""The page of a report: verdict, tables and curves in one HTML file."""
