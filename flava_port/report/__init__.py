"""What people see of a proof or a comparison: on a terminal, in Markdown, on a page of HTML."""
