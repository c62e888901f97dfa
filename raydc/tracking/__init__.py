"""MLflow: runs on record, registered models, messages that wait for a server."""
