"""JSON as text, the way chat templates write it."""

import json


def dump(value: object) -> str:
    """Write a value as JSON; characters beyond ASCII stay as they are."""
    return json.dumps(value, ensure_ascii=False)


def is_json(text: str) -> bool:
    """Tell whether a generous reader takes a text for JSON."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True
