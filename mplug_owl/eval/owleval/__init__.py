"""OwlEval: 82 open questions about 50 pictures, the answers of systems to them, and what graders say of those."""
