"""Figures: built once as plain values, drawn by matplotlib as files and by plotly on the page."""
