"""An app as its processes have told of it, and who does in Redis what is to be done for them.

Nothing is to be done in Redis for a process that lives and keeps its own lease, which is what most do all the time. So
:mod:`rqueue.supervisor.custody`, with all that it needs, is loaded when a process ends, or works in the pool
``prefork``, or when the backlog is asked for: until then a supervisor is half as large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rqueue.config import WorkerConfig

if TYPE_CHECKING:
    from rqueue.supervisor.custody import Custody


class ServedApp:
    """One app; after a change of code there may be two.

    Args:
        known: what a process has told.
        config: how its workers work.
        tell: passes on to a process that lives what its app's hooks are to be told.

    Attributes:
        known: the same.
        users: processes that it is for, until what they held is taken back.
    """

    def __init__(
        self, known: Mapping[str, Any], config: WorkerConfig, tell: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.known, self.users = known, 0
        self._config, self._tell = config, tell
        self._queues = list(known["queues"])
        self._custody: Custody | None = None

    def serve(self, queues: Sequence[str]) -> None:
        """A process serves these queues as well."""
        self._queues += queues
        if self._custody is not None:
            self._custody.serve(queues)

    def custody(self) -> Custody:
        """Its custody: the first call takes as long as importing it does."""
        if self._custody is None:
            from rqueue.supervisor.custody import Custody

            self._custody = Custody(self.known, self._config, self._tell)
            self._custody.serve(self._queues)
        return self._custody

    async def close(self) -> None:
        """Close the connection to Redis, if there is one."""
        if self._custody is not None:
            await self._custody.close()
