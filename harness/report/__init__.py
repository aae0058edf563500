"""Tables and figures from records: for the terminal, for a notebook and for a paper.

`command` is `python -m harness.report`; `files` writes a report; each figure is a function in `figures` from an
`harness.analysis.table.Analysis` to a matplotlib Figure.
"""
