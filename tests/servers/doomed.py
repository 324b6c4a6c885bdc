"""A process that starts a server, tells its pid and ends as it is told.

doomed.py FOLDER, then a line on stdin: `exit`, or any other way of killing it.
"""

import sys
from pathlib import Path

from ropeway.testing.servers import RedisServer

server = RedisServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.readline()
