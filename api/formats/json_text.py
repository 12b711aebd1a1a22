"""JSON as text, the way chat templates write it."""

import json


def dump(value: object) -> str:
    """Write a value as JSON; characters beyond ASCII stay as they are."""
    return json.dumps(value, ensure_ascii=False)


def is_json(text: str) -> bool:
    """Whether some reader may accept a text as JSON: Python's does, or gives up because of its depth."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True
