"""Training: recipes, stages, the loop, checkpoints, plans. Knows data and models, never serving."""
