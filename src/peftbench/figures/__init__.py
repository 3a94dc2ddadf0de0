"""Plots and the HTML report. Free of torch."""
