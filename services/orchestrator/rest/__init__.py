"""The five documented REST APIs, one module each; docs/compatibility.md compares them with their documents."""
