"""
The client side of Pusher's protocol: signatures, a publisher and a listener.

Imports nothing of the server but its base exception, so an application can use it with any server
for Pusher clients. It signs with code of its own: what it sends and the server accepts was computed
twice.
"""
