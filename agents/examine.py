"""ENTRY POINT of the examiner: `python -m agents.examine`, started by a worker whose range has killed it too often.

Reads records of any pipeline of the topology on its input, writes their offsets; see `app/examination.py`.
"""

import sys

from agents import topology
from app.examination import examine
from app.settings import Settings

if __name__ == "__main__":
    wanted = sys.argv[1]
    examine(next(one for one in topology.pipelines(Settings.load()) if one.name == wanted), sys.stdin.buffer, 1)
