"""The lanes of Pusher's clients, two for each framing: they encode facts as Pusher's messages."""

from heliograph.hub.facts import Event, Fact
from heliograph.node.dialect import Framing
from heliograph.protocols.lanes import FramedLane
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.event_text import event_message


class PusherLane(FramedLane):
    """
    Encodes facts as Pusher's messages.

    *with_positions* is the lane for channels of which the client asked for positions.
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__(framing)
        self.with_positions = PositionsLane(framing)

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact."""
        if type(fact) is Event:  # nine of ten facts
            return self.framing.frame(event_message(fact))
        return self.framing.frame(messages.fact_message(fact))


class PositionsLane(FramedLane):
    """
    Encodes facts as Pusher's messages, each kept event after a message with its position.

    The position precedes its event: a client has the event, or knows that it does not, wherever the
    connection is cut.
    """

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact, or two of a kept event."""
        if type(fact) is Event:
            frame = self.framing.frame
            event = frame(event_message(fact))
            if fact.position is None:
                return event
            return frame(messages.next_position(fact.channel, fact.position)) + event
        return self.framing.frame(messages.fact_message(fact))
