"""What is shown: tables in every form, charts, and the HTML page."""
