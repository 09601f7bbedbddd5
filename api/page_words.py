"""The words of the page in its two languages, and how each writes months, days and money."""

from datetime import date
from decimal import Decimal
from typing import Any, Final

LANGUAGES: Final = ("pt-BR", "en")
RANGES_MAX: Final = 20  # of Accept-Language that are looked at
_SYMBOLS: Final = {"BRL": "R$", "USD": "US$", "EUR": "€", "GBP": "£", "JPY": "¥"}
WORDS: Final[dict[str, dict[str, Any]]] = {
    "en": {
        "title": "Bills",
        "sign_in": "Sign in",
        "sign_out": "Sign out",
        "key": "App key",
        "key_note": "It begins with afa_. The key stays in this browser, sealed, for seven days.",
        "key_wrong": "This is not a valid app key.",
        "due": "Due",
        "paid": "Paid",
        "unpaid": "To pay",
        "overdue": "Overdue",
        "months": "Months",
        "categories": "Categories",
        "no_category": "No category",
        "upcoming": "Installments",
        "upcoming_note": "Late ones and those of the next 60 days",
        "month_label": "{month}: due {due}, paid {paid}",
        "pay": "{what}, {amount}, due {day}: paid",
        "of": "{number}/{count}",
        "recurring": "recurring",
        "empty": "No bills yet",
        "empty_note": "Create one with POST /bills, and it appears here by itself.",
        "nothing_due": "Nothing is due in this month.",
        "nothing_coming": "Nothing to pay. Enjoy.",
        "currency": "Currency",
        "as_of": "Up to date until {time} UTC",
        "as_of_never": "No change has arrived yet",
        "behind": "Your change is saved. The figures follow in a moment.",
        "updated": "Updated",
        "failed": "That did not work. Try again.",
        "away": "The figures cannot be read now. The page tries again by itself.",
        "today": "today",
        "months_short": ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
        "months_long": [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ],
        "month_format": "{month} {year}",
        "day_format": "{month} {day}",
        "skip": "Skip to content",
    },
    "pt-BR": {
        "title": "Contas",
        "sign_in": "Entrar",
        "sign_out": "Sair",
        "key": "Chave do app",
        "key_note": "Começa com afa_. A chave fica neste navegador, selada, por sete dias.",
        "key_wrong": "Esta não é uma chave de app válida.",
        "due": "Vence",
        "paid": "Pago",
        "unpaid": "A pagar",
        "overdue": "Em atraso",
        "months": "Meses",
        "categories": "Categorias",
        "no_category": "Sem categoria",
        "upcoming": "Parcelas",
        "upcoming_note": "Atrasadas e as dos próximos 60 dias",
        "month_label": "{month}: vence {due}, pago {paid}",
        "pay": "{what}, {amount}, vence {day}: paga",
        "of": "{number}/{count}",
        "recurring": "recorrente",
        "empty": "Nenhuma conta ainda",
        "empty_note": "Crie uma com POST /bills e ela aparece aqui sozinha.",
        "nothing_due": "Nada vence neste mês.",
        "nothing_coming": "Nada a pagar. Aproveite.",
        "currency": "Moeda",
        "as_of": "Atualizado até {time} UTC",
        "as_of_never": "Nenhuma mudança chegou ainda",
        "behind": "Sua mudança está salva. Os números chegam em um instante.",
        "updated": "Atualizado",
        "failed": "Não funcionou. Tente de novo.",
        "away": "Os números não podem ser lidos agora. A página tenta de novo sozinha.",
        "today": "hoje",
        "months_short": ["jan", "fev", "mar", "abr", "mai", "jun", "jul", "ago", "set", "out", "nov", "dez"],
        "months_long": [
            "janeiro",
            "fevereiro",
            "março",
            "abril",
            "maio",
            "junho",
            "julho",
            "agosto",
            "setembro",
            "outubro",
            "novembro",
            "dezembro",
        ],
        "month_format": "{month} de {year}",
        "day_format": "{day} {month}",
        "skip": "Ir para o conteúdo",
    },
}


def language(accepted: str) -> str:
    """The better of the two for an Accept-Language header; English when it names neither."""
    best, found = 0.0, "en"
    for part in accepted.split(",")[:RANGES_MAX]:
        name, _, weight = part.strip().partition(";q=")
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        spoken = next((one for one in LANGUAGES if name.lower().split("-")[0] == one.lower().split("-")[0]), None)
        if spoken and quality > best:
            best, found = quality, spoken
    return found


def money(amount: str | Decimal, currency: str, tongue: str) -> str:
    """As people write it: R$ 1.234,56 or R$ 1,234.56."""
    text = f"{Decimal(amount):,.2f}"
    if tongue == "pt-BR":
        text = text.translate(str.maketrans(",.", ".,"))
    return f"{_SYMBOLS.get(currency, currency)}\u00a0{text}"


def month_name(month: str, tongue: str) -> str:
    """2026-11 in words."""
    words = WORDS[tongue]
    name: str = words["month_format"].format(month=words["months_long"][int(month[5:]) - 1], year=month[:4])
    return name


def day_name(day: date, tongue: str) -> str:
    """A day in words, without its year."""
    words = WORDS[tongue]
    name: str = words["day_format"].format(month=words["months_short"][day.month - 1], day=day.day)
    return name
