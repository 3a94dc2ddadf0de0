"""One HTML file that shows the records: leaderboard, plots, and a page a run. See docs/report.md.

`payload.py` gathers the data, `detail.py` that of one run, `charts.py` describes the plots, `page.py` puts it all into
one file beside `page.html`, `page.css` and the scripts. The file loads nothing from anywhere.
"""
