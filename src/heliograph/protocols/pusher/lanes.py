"""The lanes of Pusher's clients: facts as messages of the protocol, one for each framing."""

from heliograph.hub.facts import Event, Fact
from heliograph.protocols.lanes import FramedLane
from heliograph.protocols.pusher import messages
from heliograph.protocols.pusher.event_text import event_message


class PusherLane(FramedLane):
    """Facts as Pusher's messages."""

    def encode(self, fact: Fact, /) -> bytes:
        """Make one frame of a fact."""
        if type(fact) is Event:  # nine in ten
            return self.framing.frame(event_message(fact))
        return self.framing.frame(messages.fact_message(fact))
