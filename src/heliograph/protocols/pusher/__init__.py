"""The protocol of Pusher Channels. Pure: messages and time in, messages and commands out."""
