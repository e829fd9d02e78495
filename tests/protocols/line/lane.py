"""The lane of clients of the protocol: facts as lines, one lane for each framing."""

from heliograph.hub.facts import Fact
from heliograph.protocols.lanes import FramedLane
from tests.protocols.line import lines


class LineLane(FramedLane):
    """Facts as lines."""

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact."""
        frame: bytes = self.framing.frame(lines.fact(fact))
        return frame
