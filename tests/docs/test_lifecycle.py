"""The diagram in `docs/protocol.md` is the table in `rqueue/wire/state.py`.

`python tests/docs/test_lifecycle.py` writes it anew after a change of the table.
"""

import re
from pathlib import Path

from rqueue.wire.state import LIFECYCLE, OTHER_VERBS, WORKER_VERBS, Place

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
MARKED = re.compile(r"(?<=<!-- lifecycle -->\n).*?(?=<!-- /lifecycle -->)", re.DOTALL)


def diagram() -> str:
    """The table as a state diagram: an arrow for each pair of places, named by its verbs."""
    arrows: dict[tuple[Place, Place], list[str]] = {}
    for move in LIFECYCLE:
        arrows.setdefault((move.source, move.target), []).append(move.verb)
    lines = [f"    {node(source)} --> {node(target)}: {', '.join(verbs)}" for (source, target), verbs in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def node(place: Place) -> str:
    """A place's name in the diagram: what is absent is its beginning and its end."""
    return "[*]" if place is Place.ABSENT else place.value


def test_the_diagram_is_the_table():
    assert MARKED.findall(PAGE.read_text(encoding="utf-8")) == [diagram()]


def test_every_verb_is_explained():
    explained = "\n".join(re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    words = set(re.findall(r"\w+", explained))
    assert {move.verb for move in LIFECYCLE} | {*WORKER_VERBS, *OTHER_VERBS} <= words


if __name__ == "__main__":
    PAGE.write_text(MARKED.sub(diagram().replace("\\", r"\\"), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
