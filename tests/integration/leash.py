"""Runs a command for as long as standard input is open.

A server on this leash ends with the test run that holds the other end, even if that is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

PATIENCE = 5.0  # seconds between asking a server to end and making it


def main() -> int:
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def end_with_the_other_side() -> None:
        while os.read(0, 1):  # ends when the pipe closes, by intent or by death
            pass
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()

    threading.Thread(target=end_with_the_other_side, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
