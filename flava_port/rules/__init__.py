"""The rename rules: tables as data, their engine, the layouts that they lead between, and what is wrong with a table."""
