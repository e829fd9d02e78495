"""Pusher's HTTP API, one file for each group of endpoints in its documentation."""
