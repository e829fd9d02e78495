"""What we speak: Pusher Channels. Pure: messages and time in, messages and requests out."""
