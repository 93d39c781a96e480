"""`python -m services.faces` starts the service."""

from services.faces.main import main

main()
