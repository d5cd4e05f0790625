"""How the blocks of a cluster send each other what they made: it depends on how they are run.

What is sent is counted where it arrives, by an mbarrier in shared memory (a mailbox). A launch of
its own opens its mailboxes, and nothing is sent before all blocks of the cluster have done so. In a
resident kernel (`fusec.codegen.cuda.resident`) the mailboxes are there from its beginning, for all
of its phases, and each phase leaves them as it found them: so nobody waits for them to be open.
"""

from __future__ import annotations

from collections.abc import Callable

from fusec.writer import Writer

MAILBOX = 8  # bytes


class Exchange:
    """In a launch of its own. `shared` gives a variable with the address of new shared memory."""

    first = "0"
    """Expression of the rank that the first block has in the cluster that is launched."""

    def __init__(self, shared: Callable[[str, int], str]) -> None:
        self._shared = shared

    @property
    def places(self) -> list[str]:
        """The lines that say where mailboxes lie, if they are not in the kernel's own memory."""
        return []

    def mailbox(self, prefix: str) -> str:
        """A variable with the address of a mailbox."""
        return self._shared(prefix, MAILBOX)

    def open(self, mailbox: str, nbytes: int) -> str:
        """The statement that has a mailbox expect so many bytes."""
        return f"mailbox_open({mailbox}, uint32({nbytes}), thread == uint32(0))"

    def arrive(self, w: Writer) -> None:
        """This block's mailboxes are open."""
        w.line("cluster_arrive_relaxed()")

    def opened(self, w: Writer) -> None:
        """Those of all blocks are: from here on, something may be sent."""
        w.line("cluster_wait()", "all mailboxes are open")

    def wait(self, mailbox: str) -> str:
        """The statement that waits for all that a mailbox expects."""
        return f"mailbox_wait({mailbox})"

    def of_rank(self, address: str, rank: str) -> str:
        """Expression of the same place in the shared memory of another block of the cluster."""
        return f"map_shared({address}, {rank})"

    def rank(self, _ranks: int) -> str:
        """Expression of the block's rank among so many, read anew."""
        return "cluster_rank()"


class PhaseExchange(Exchange):
    """In a phase of a resident kernel, whose clusters are at least as large as the phase's."""

    first = "first_rank"

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def places(self) -> list[str]:
        """See `Exchange`."""
        return [f"{name} = uint32(boxes + {n * MAILBOX})" for n, name in enumerate(self.names)]

    def mailbox(self, prefix: str) -> str:
        """See `Exchange`."""
        self.names.append(f"{prefix}{sum(n.startswith(prefix) for n in self.names)}")
        return self.names[-1]

    def open(self, mailbox: str, nbytes: int) -> str:
        """See `Exchange`."""
        return f"mailbox_expect_if({mailbox}, uint32({nbytes}), thread == uint32(0))"

    def arrive(self, w: Writer) -> None:
        """Nobody waits for it."""

    def opened(self, w: Writer) -> None:
        """They always are."""

    def wait(self, mailbox: str) -> str:
        """See `Exchange`."""
        return f"mailbox_wait_bounded({mailbox}, arrived)"

    def of_rank(self, address: str, rank: str) -> str:
        """See `Exchange`."""
        return f"map_shared({address}, uint32({rank} + {self.first}))"

    def rank(self, ranks: int) -> str:
        """See `Exchange`."""
        return f"uint32(cluster_rank() % uint32({ranks}))"
