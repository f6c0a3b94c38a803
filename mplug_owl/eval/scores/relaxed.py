"""Relaxed accuracy (ChartQA): numbers may be 5% off, anything else must be equal but for case."""


def relaxed(answer: str, reference: str, tolerance: float = 0.05) -> bool:
    """Whether an answer is close enough. A reference of 0 is compared as text, as the official function does."""
    found, expected = _number(answer), _number(reference)
    if found is not None and expected:
        return abs(found - expected) / abs(expected) <= tolerance
    return answer.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
