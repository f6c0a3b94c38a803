"""The drawn world: scenes whose truth is known, and what can be said about them. `scene.make` draws one.

It knows messages and nothing of models or data sets.
"""
