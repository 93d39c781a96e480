"""`python -m services.deeplearning` starts the service."""

from services.deeplearning.main import main

main()
