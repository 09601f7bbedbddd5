"""What tracking remembers: the event ids it has seen.

Key: hash of tenant and event id. Value: the offset that first carried it. Retention: the dedupe window; ids leave it
batch by batch as new ones are written. Changelog: the source topic and its DLQ; a lost table is read anew from there,
and the window must fit the topic's retention (the worker refuses to start when it does not).
"""

from app.dedup import SeenTable
from app.settings import Settings

_WINDOW_HOURS = Settings.load().dedupe_window_hours

COLLECTED = SeenTable(name="tracking-collected-seen", window_hours=_WINDOW_HOURS)
RECEIVED = SeenTable(name="gateway-received-seen", window_hours=_WINDOW_HOURS)
