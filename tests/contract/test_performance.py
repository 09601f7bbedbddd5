"""The published figures are those of the committed results: no table, no plot and no front page says anything else."""

import json

from loadtest import bills_page, front_page, page

RESULTS = json.loads(page.RESULTS.read_text("utf-8"))


def test_pages_and_plot_show_the_committed_results() -> None:
    """A table that was edited by hand, or not made anew after a run, is not what was measured."""
    for path, text in page.pages(RESULTS).items():
        assert path.read_text("utf-8") == text, path.name


def test_the_bills_tables_show_the_committed_results() -> None:
    """The same of the figures of bills."""
    found = json.loads(bills_page.RESULTS.read_text("utf-8"))
    assert page.PERFORMANCE.read_text("utf-8") == bills_page.page(found)


def test_a_figure_that_is_not_the_measured_one_is_seen() -> None:
    """Other results make other pages, the front page in both languages among them."""
    other = {**RESULTS, "ratios": {**RESULTS["ratios"], "stock_faust": 99.9}}
    changed = {path for path, text in page.pages(other).items() if path.read_text("utf-8") != text}
    assert changed == {page.PERFORMANCE, *(language.page for language in front_page.LANGUAGES)}
