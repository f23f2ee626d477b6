"""Handlers of the control plane: classes made with their services, one method for each operationId."""
