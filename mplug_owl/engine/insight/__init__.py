"""Insight: what an owl looked at while it said each word, from attention back onto pixels.

`attention.py` overhears a copy of the model that shares its weights, `paths.py` carries attention through the connector
and the ViT, `observer.py` does one forward over prompt and answer, `words.py` makes words of tokens, `look.py` puts it
together; `sheet.py` and `page.py` show it. Whether what was looked at is right is not judged here.
"""
