"""The figures of `make bench` on the front page, in both of its languages; loadtest/page.py writes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.local.home import ROOT

ABOUT: Final = -2  # decimals: a front page says hundreds
SWAPPED: Final = str.maketrans(",.", ".,")
NEEDED: Final = ("contest", "latency", "edge", "ratios")


@dataclass(frozen=True, slots=True)
class Language:
    """How one page says it: templates of the figures that `figures` gives."""

    page: Path
    comma_decimals: bool
    rows: tuple[tuple[str, str], ...]  # the head first


ENGLISH: Final = Language(
    ROOT / "README.md",
    comma_decimals=False,
    rows=(
        ("what", "figure"),
        ("---", "---"),
        (
            "one worker, full topic into ClickHouse, 1 KB events, dedupe on",
            (
                "{worker} events/s (350 bytes: {small}); {floor} of the floor, a loop that only consumes and inserts"
                " the same bytes; {stock} times stock Faust"
            ),
        ),
        ("produce to queryable at 100 events/s, p50 / p99", "{p50} / {p99} ms"),
        (
            "edge, one event a request",
            "{single} requests/s a core, each confirmed by Kafka; {noop} of an empty FastAPI endpoint",
        ),
        ("edge, 100 events a request", "{batch} events/s a core"),
    ),
)
PORTUGUESE: Final = Language(
    ROOT / "README.pt-BR.md",
    comma_decimals=True,
    rows=(
        ("o quê", "número"),
        ("---", "---"),
        (
            "um worker, tópico cheio até o ClickHouse, eventos de 1 KB, com dedupe",
            (
                "{worker} eventos/s (350 bytes: {small}); {floor} do piso, um laço que só consome e insere os mesmos"
                " bytes; {stock} vezes o Faust comum"
            ),
        ),
        ("do produce à consulta com 100 eventos/s, p50 / p99", "{p50} / {p99} ms"),
        (
            "borda, um evento por requisição",
            "{single} requisições/s por núcleo, cada uma confirmada pelo Kafka; {noop} de um endpoint FastAPI vazio",
        ),
        ("borda, 100 eventos por requisição", "{batch} eventos/s por núcleo"),
    ),
)
LANGUAGES: Final = (ENGLISH, PORTUGUESE)


def figures(results: dict[str, Any]) -> dict[str, float]:
    """What the page shows, rounded as it is shown."""
    rates = {
        size: results["contest"][size]["contestants"]["afluente"]["median_events_per_s"] for size in ("1024", "350")
    }
    trickle, cores = results["latency"]["trickle"], results["edge"]["edge_events_per_s_per_core"]
    return {
        "worker": round(rates["1024"], ABOUT),
        "small": round(rates["350"], ABOUT),
        "floor": results["ratios"]["floor"],
        "stock": int(results["ratios"]["stock_faust"]),
        "p50": round(trickle["p50_s"] * 1000),
        "p99": round(trickle["p99_s"] * 1000),
        "single": round(cores["single"], ABOUT),
        "noop": results["ratios"]["edge_noop"],
        "batch": round(cores["batch_100"], ABOUT),
    }


def table(results: dict[str, Any], language: Language) -> str:
    """The table in one language; "" while one of the benchmarks has not run."""
    if not all(results.get(name) for name in NEEDED):
        return ""
    said = {name: f"{value:,}" for name, value in figures(results).items()}
    if language.comma_decimals:
        said = {name: text.translate(SWAPPED) for name, text in said.items()}
    return "\n".join(f"| {what} | {figure.format(**said)} |" for what, figure in language.rows)
