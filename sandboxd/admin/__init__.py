"""The status of a server for people: one document, the page that shows it, and what may be changed while it runs."""
