"""The status of a server for people: a document, the page that shows it, and what they may change at run time."""
