"""
A second, small protocol, by which the tests prove the seam for protocols: lines of text.

    subscribe ROOM [PROOF]      subscribed ROOM
    join ROOM NAME PROOF        joined ROOM NAME...
    say ROOM TEXT               said ROOM
    leave ROOM                  left ROOM

The right side answers the left one, or `error WORD [ROOM]` does. Besides, a client receives `hello
ID`, `event ROOM NAME JSON`, `added ROOM NAME`, `removed ROOM NAME`, `count ROOM NUMBER`, `lost ROOM
NAME...` where events are missing, and `bye WORD` before its connection is closed.
"""
