"""The lanes of Pusher's clients, one for each framing: they encode facts as Pusher's messages."""

from heliograph.hub.facts import Event, Fact
from heliograph.protocols.lanes import FramedLane
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.event_text import event_message


class PusherLane(FramedLane):
    """Encodes facts as Pusher's messages."""

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact."""
        if type(fact) is Event:  # nine of ten facts
            return self.framing.frame(event_message(fact))
        return self.framing.frame(messages.fact_message(fact))
