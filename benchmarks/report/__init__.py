"""What is shown: tables in every form, curves, the HTML page, and the generated parts of the documentation."""
