"""Locust users that send loadtest/traffic.py and write down every outcome. Run it with `./afluente load`.

Each user belongs to one tenant; few tenants have most users. An event's line is written before it goes out and
another when its answer comes, so a user that dies in between leaves an event of unknown outcome and not a lie.
"""

import itertools
import random
from argparse import Namespace
from pathlib import Path
from typing import Any, TextIO

from locust import FastHttpUser, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest import plan as plans
from loadtest.history import Outcome, line
from loadtest.rows import require_loopback
from loadtest.traffic import Request, Traffic, settle

TIMEOUT_S = 10.0  # the edge answers within 2 s whatever hangs


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", required=True, help="written by ./afluente load, which is the way to run this")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert isinstance(options, Namespace)
    require_loopback(str(environment.host))
    Business.plan = plans.read(Path(options.plan))
    Business.wait_time = constant_throughput(Business.plan.requests_per_s)
    Business.history = Path(Business.plan.history).open("a", encoding="utf-8")  # noqa: SIM115 - until `quitting`


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _finish(**_: Any) -> None:
    Business.history.close()


class Business(FastHttpUser):
    """The pages and gateways of one tenant."""

    plan: plans.Plan
    history: TextIO
    numbers = itertools.count()
    sent = 0
    connection_timeout = TIMEOUT_S
    network_timeout = TIMEOUT_S

    def on_start(self) -> None:
        """Joins a tenant: the first users one each, the others by weight."""
        number, plan = next(self.numbers), self.plan
        chooser = random.Random(plan.seed + number)
        sender = (
            plan.senders[number]
            if number < len(plan.senders)
            else chooser.choices(plan.senders, weights=plan.weights)[0]
        )
        self.traffic = Traffic(sender, seed=plan.seed * 1_000 + number)

    @task
    def send(self) -> None:
        """One request, and what became of it."""
        request = self.traffic.next()
        if Business.sent + len(request.keys) > self.plan.events_max:
            self.environment.runner.quit()
            return
        Business.sent += len(request.keys)
        self._note(Outcome.INVOKED, request, request.keys)
        with self.client.post(
            self.traffic.url(request),
            data=request.body,  # type: ignore[arg-type]
            headers=self.traffic.headers(request),
            name=request.kind,
            catch_response=True,
        ) as response:
            status = response.status_code or None
            for outcome, keys in settle(request, status, response.content or b""):
                self._note(outcome, request, keys)
            if status is not None and status < 300:
                response.success()
            else:
                response.failure(f"answered {status}")

    def _note(self, outcome: Outcome, request: Request, keys: tuple[str, ...]) -> None:
        if keys:
            self.history.write(line(outcome, request.stream, keys))
            self.history.flush()
