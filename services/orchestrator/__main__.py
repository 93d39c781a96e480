"""`python -m services.orchestrator` starts the service."""

from services.orchestrator.main import main

main()
