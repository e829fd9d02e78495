"""The WebSocket protocol, tested by Autobahn|Testsuite: `make autobahn`."""
