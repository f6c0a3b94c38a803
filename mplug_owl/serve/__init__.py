"""The server: owls behind the API that people's clients speak. It knows requests and replies; nothing of training."""
