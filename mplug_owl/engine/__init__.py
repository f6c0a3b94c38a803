"""The engine: owls that answer. It knows models, messages and media; nothing of training, scores or HTTP."""
