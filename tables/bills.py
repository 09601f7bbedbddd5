"""What bills remember: the changes they have seen.

Key: hash of tenant, table, primary key, LSN and op. Value: the offset that first carried it. Retention: the dedupe
window. Changelog: bills.changes and its DLQ.
"""

from app.dedup import SeenTable
from app.settings import Settings

CHANGES = SeenTable(name="bills-changes-seen", window_hours=Settings.load().dedupe_window_hours)
