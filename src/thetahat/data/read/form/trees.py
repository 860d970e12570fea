"""Trees of messages, as OpenAssistant publishes them: every reply to a message may have replies of its own.

    {"message_tree_id": ..., "prompt": {"message_id": ..., "role": "prompter", "text": ..., "replies": [...]}}
    {"message_id": ..., "parent_id": null, "message_tree_id": ..., "role": "prompter", "text": ..., "rank": ...}

The second is one message of a tree, whose others stand in the objects behind it; `gathered` makes the first of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from thetahat.core.errors import DataError
from thetahat.data.config import Trees

NODE = ("message_id", "parent_id", "message_tree_id", "role", "text", "rank", "deleted", "replies")
_ROLES = {"prompter": "user", "user": "user", "assistant": "assistant"}
_CURE = "data.trees=best, to learn of each message the best ranked reply, or data.trees=all, to learn every reply"
Fields = Mapping[str, Any]
Numbered = tuple[int, Fields]


def is_tree(there: Fields) -> bool:
    """Whether an object is a tree of messages."""
    prompt = there.get("prompt")
    return isinstance(prompt, dict) and "replies" in prompt and "text" in prompt


def gathered(objects: Iterable[Numbered], path: object, on_error: Callable[[DataError], None]) -> Iterator[Numbered]:
    """The same objects, but the messages of a tree, which stand one behind the other, as one; its number is its root's.

    `on_error` gets a message whose parent is not there. No more than one tree is in memory.
    """
    tree, waiting = None, list[Numbered]()
    for number, fields in objects:
        if not {"message_id", "role", "text"} <= fields.keys() or "parent_id" not in fields:
            yield from _made(waiting, path, on_error)
            waiting = []
            yield number, fields
            continue
        own = fields.get("message_tree_id") or (tree if fields.get("parent_id") else fields["message_id"])
        if own != tree:
            yield from _made(waiting, path, on_error)
            tree, waiting = own, []
        waiting.append((number, fields))
    yield from _made(waiting, path, on_error)


def _made(waiting: list[Numbered], path: object, on_error: Callable[[DataError], None]) -> Iterator[Numbered]:
    """The tree that some messages are."""
    nodes = {fields["message_id"]: {**fields, "replies": list[Any]()} for _, fields in waiting}
    root: Numbered | None = None
    reached = set[Any]()
    for number, fields in waiting:
        parent, node = fields.get("parent_id"), nodes[fields["message_id"]]
        if parent is None and root is None:
            tree = fields.get("message_tree_id") or fields["message_id"]
            root = number, {"message_tree_id": tree, "prompt": node}
            reached.add(fields["message_id"])
        elif parent in reached:
            nodes[parent]["replies"].append(node)
            reached.add(fields["message_id"])
        else:
            what = f"{path}:{number}: the message {fields['message_id']!r} answers {parent!r}, which is not before it"
            on_error(DataError(what, allowed="a tree in one piece, each message behind the one that it answers"))
    if root is not None:
        yield root


def paths_of(there: Fields, where: str, trees: Trees | None) -> list[dict[str, Any]]:
    """The dialogues of a tree: from its root to every reply of the assistant behind which no other stands.

    A reply that several of them run through has a weight in the first alone. All have the id of the tree, which makes
    them one document. With `best` only the best ranked of several replies of the assistant is there: rank 0.
    """
    if trees is None:
        raise DataError(f"{where}: a tree of messages, of which it is to be said what is learned", cure=_CURE)
    root = cast("dict[str, Any]", there["prompt"])
    name = there.get("message_tree_id") or root.get("message_id")
    learned = set[int]()
    found: list[dict[str, Any]] = []
    waiting: list[tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = [(root, ())]
    while waiting:
        node, above = waiting.pop()
        path = (*above, node)
        below = _replies(node, where, trees)
        waiting += [(one, path) for one in reversed(below)]
        if not below and (ends := [index for index, one in enumerate(path) if _role(one, where) == "assistant"]):
            whole = path[: ends[-1] + 1]
            if id(whole[-1]) not in learned:
                found.append({"messages": [_message(one, learned, where) for one in whole], "id": name})
                learned |= set(map(id, whole))
    if not found:
        raise DataError(f"{where}: a tree without a reply of the assistant", cure="remove it")
    return found


def _replies(node: dict[str, Any], where: str, trees: Trees) -> list[dict[str, Any]]:
    given = node.get("replies") or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise DataError(f"{where}: replies that are no list of messages")
    there = [one for one in cast("list[dict[str, Any]]", given) if not one.get("deleted")]
    answers = [one for one in there if _role(one, where) == "assistant"]
    if trees == "all" or len(answers) < 2:
        return there
    best = min(answers, key=lambda one: _rank(one, where))
    return [one for one in there if one is best or one not in answers]


def _rank(node: dict[str, Any], where: str) -> float:
    rank = node.get("rank")
    if isinstance(rank, bool) or not isinstance(rank, int | float | None):
        raise DataError(f"{where}: a rank that is no number")
    return float("inf") if rank is None else float(rank)


def _role(node: dict[str, Any], where: str) -> str:
    role = node.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(f"{where}: a message of {role!r}", allowed=", ".join(_ROLES))
    return _ROLES[role]


def _message(node: dict[str, Any], learned: set[int], where: str) -> dict[str, Any]:
    role = _role(node, where)
    is_context = role == "assistant" and id(node) in learned
    return {"role": role, "content": node.get("text")} | ({"weight": 0} if is_context else {})
