"""The crash oracle: publishers and frontends that keep journals while the server under them is killed again and again.

python -m tests.e2e.oracle.run --kills 50 --seed 1

journal.py      what was said to whom, and which of it must not have happened
wire.py         HTTP/1.1 and WebSocket just large enough for the load
publisher.py    publishes, repeats ids after unknown outcomes, asks for receipts, purges
subscriber.py   connects, acknowledges in several manners, vanishes, comes back
run.py          the course of a run: start, kill, restart, drain
buggy_server.py a server with one promise broken, to show that the oracle sees it
"""
