"""Tracking events as they cross boundaries: their types, subjects and limits. Fields are in schemas/avro/."""

from typing import Final

CLICK: Final = "click"
PAGEVIEW: Final = "pageview"
INITIATE_CHECKOUT: Final = "initiate_checkout"
EVENT_TYPES: Final = (CLICK, PAGEVIEW, INITIATE_CHECKOUT)
WEBHOOK: Final = "webhook"

TRACKING_EVENT: Final = "tracking-event"
GATEWAY_WEBHOOK: Final = "gateway-webhook"
GATEWAY_EVENT: Final = "gateway-event"

GATEWAYS: Final = ("hotmart", "kiwify", "generic", "standard")

EVENTS_MAX: Final = 1_000  # events in one request: one answer names each of them
ID_CHARACTERS_MAX: Final = 512  # session, click and user ids, fbp, fbc: several times what any sender uses
UTM_CHARACTERS_MAX: Final = 512
CLICK_ID_CHARACTERS_MAX: Final = 1_024  # fbclid and gclid grow year by year; 200 today
URL_CHARACTERS_MAX: Final = 4_096  # more than browsers reliably send
PROPERTIES_BYTES_MAX: Final = 16 << 10  # JSON of one event's properties
PROPERTIES_DEPTH_MAX: Final = 5  # objects and arrays inside one another, the outer object counted
MONEY_DIGITS_MAX: Final = 18  # Decimal(18, 4) in Avro and ClickHouse
MONEY_DECIMALS_MAX: Final = 4

# ClickHouse keeps a part a month: a sender's wild clock must not spread one insert over hundreds of them.
OCCURRED_BEFORE_DAYS_MAX: Final = 400  # an import of last year's events still fits
OCCURRED_AHEAD_S_MAX: Final = 3_600  # what a badly set but not absurd clock shows
SKEW_IGNORED_S: Final = 5.0  # below it the difference is the network's, and a retry keeps its time
