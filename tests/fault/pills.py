"""Records that kill the process, and the build that dies of them: `python -m tests.fault.pills` is its examiner."""

import os
import signal
import sys
from dataclasses import replace

from agents import topology
from app.examination import examine
from app.outputs import Events, Outputs
from app.pipeline import Pipeline
from app.settings import Settings
from schemas.envelope import header

PILL = "test_pill"  # header of a record that kills
EXAMINER = (sys.executable, "-m", "tests.fault.pills")


def deadly(pipeline: Pipeline) -> Pipeline:
    """The same pipeline, built with a fault that only some records meet."""

    def process(events: Events) -> Outputs:
        for record in events.records:
            if header(record.headers, PILL) is not None:
                os.kill(os.getpid(), signal.SIGSEGV)
        return pipeline.process(events)

    return replace(pipeline, process=process)


if __name__ == "__main__":
    found = next(one for one in topology.pipelines(Settings.load()) if one.name == sys.argv[1])
    examine(deadly(found), sys.stdin.buffer, 1)
