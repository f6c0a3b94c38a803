"""Evaluation: tasks ask, an owl answers through the same path as in a chat, every answer is kept and scored."""
