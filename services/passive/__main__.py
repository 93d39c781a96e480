"""`python -m services.passive` starts the service."""

from services.passive.main import main

main()
