"""What an agent can read of each type of message on the WhatsApp Cloud API.

In comes a type and the item; out goes the text, ``""`` where there is nothing to read. What
is no text of a person's becomes a sentence they could have said. ``payload.py`` lists
the types.

Source: Meta, "Messages webhook reference", and "Payments API" for Brazil and India.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chatbot.channels.json_fields import dict_of, dicts_of, id_of, number_of, text_of

#: Characters that are kept of what an ad says.
_LONGEST_AD = 1000
#: What ``status`` of a payment a person would speak of, and how.
_PAYMENTS = {"captured": "foi confirmado", "failed": "não foi concluído"}


def led_to(item: dict[str, Any]) -> str:
    """Return in a sentence which ad brought a message, which product it is about, and that it was forwarded."""
    quote, ad = dict_of(item.get("context")), dict_of(item.get("referral"))
    product = id_of(dict_of(quote.get("referred_product")).get("product_retailer_id"))
    shown = " — ".join(filter(None, (text_of(ad.get(part)) for part in ("headline", "body", "source_url"))))
    forwarded = quote.get("forwarded") is True or quote.get("frequently_forwarded") is True
    sentences = (
        f"Cheguei pelo anúncio: {shown[:_LONGEST_AD]}." if shown else "",
        f"Pergunto sobre o produto {product}." if product else "",
        "Encaminhei esta mensagem." if forwarded else "",
    )
    return " ".join(filter(None, sentences))


def text_in(kind: str, item: dict[str, Any]) -> str:
    """Return what an agent can read of an item of this type."""
    read = _READERS.get(kind)
    return read(dict_of(item.get(kind)), item) if read else ""


def _caption(content: dict[str, Any], _: dict[str, Any]) -> str:
    return text_of(content.get("caption"))


def _interactive(content: dict[str, Any], _: dict[str, Any]) -> str:
    chosen = dict_of(content.get("button_reply")) or dict_of(content.get("list_reply"))
    if chosen:
        return ": ".join(filter(None, (text_of(chosen.get("title")), text_of(chosen.get("description")))))
    if product := dict_of(content.get("product")):
        return _product_asked(content, product)
    if paid_with := dict_of(content.get("payment_method")):
        return _payment_method(paid_with)
    form = dict_of(content.get("nfm_reply"))
    return ": ".join(filter(None, (text_of(form.get("name")), text_of(form.get("response_json")))))


def _product_asked(content: dict[str, Any], product: dict[str, Any]) -> str:
    """Return the question about a product of the catalog, and what was written with it."""
    id_ = id_of(product.get("product_retailer_id")) or id_of(product.get("id"))
    name = text_of(product.get("title")) or text_of(product.get("name"))
    which = f"{name} ({id_})" if name and id_ else name or id_
    written = text_of(dict_of(content.get("body")).get("text"))
    return " ".join(filter(None, (f"Pergunto sobre o produto {which}." if which else "", written)))


def _payment_method(chosen: dict[str, Any]) -> str:
    """Return with what an order is to be paid; the stored card's id stays where it is."""
    method, order = id_of(chosen.get("payment_method")), id_of(chosen.get("reference_id"))
    card = id_of(chosen.get("last_four_digits"))[-4:]
    parts = (
        f"com {method}" if method else "",
        f"cartão final {card}" if card else "",
        f"pedido {order}" if order else "",
    )
    how = ", ".join(filter(None, parts))
    return f"Escolhi pagar {how}." if how else ""


def payment(status: str, told: dict[str, Any]) -> str:
    """Return the sentence for what became of a payment, ``""`` for a state that is only on the way."""
    if status not in _PAYMENTS:
        return ""
    order, amount = id_of(told.get("reference_id")), _amount(told)
    which = " ".join(
        filter(None, ("O pagamento", f"do pedido {order}" if order else "", f"({amount})" if amount else ""))
    )
    return f"{which} {_PAYMENTS[status]}."


def _amount(told: dict[str, Any]) -> str:
    """Return an amount as a person writes it: Meta gives 21000 with an offset of 100 for 210.00."""
    amount = dict_of(told.get("amount"))
    value, offset = amount.get("value"), amount.get("offset")
    if not isinstance(value, int) or not isinstance(offset, int) or not 0 < offset < 10**6 or abs(value) > 10**15:
        return ""
    return f"{id_of(told.get('currency'))} {value / offset:.2f}".strip()


def _location(content: dict[str, Any], _: dict[str, Any]) -> str:
    place = ", ".join(filter(None, (text_of(content.get("name")), text_of(content.get("address")))))
    latitude, longitude = number_of(content.get("latitude")), number_of(content.get("longitude"))
    at = f"latitude {latitude}, longitude {longitude}" if latitude and longitude else ""
    where = f"{place} ({at})" if place and at else place or at
    return f"Enviei minha localização: {where}" if where else ""


def _cards(_: dict[str, Any], item: dict[str, Any]) -> str:
    people = []
    for card in dicts_of(item.get("contacts")):
        name = text_of(dict_of(card.get("name")).get("formatted_name"))
        phones = [text_of(phone.get("phone")) for phone in dicts_of(card.get("phones"))]
        people.append(" ".join(filter(None, (name, *phones))))
    return f"Enviei um contato: {'; '.join(filter(None, people))}" if any(people) else ""


def _order(content: dict[str, Any], _: dict[str, Any]) -> str:
    lines = ", ".join(filter(None, map(_product, dicts_of(content.get("product_items")))))
    return ". ".join(filter(None, (lines and f"Fiz um pedido: {lines}", text_of(content.get("text")))))


def _product(product: dict[str, Any]) -> str:
    name = text_of(product.get("product_retailer_id"))
    many = number_of(product.get("quantity"))
    return f"{many} × {name}" if many and name else name


def _edit(content: dict[str, Any], _: dict[str, Any]) -> str:
    return text_of(dict_of(dict_of(content.get("message")).get("text")).get("body"))


_READERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "text": lambda content, _: text_of(content.get("body")),
    "button": lambda content, _: text_of(content.get("text")),
    "reaction": lambda content, _: text_of(content.get("emoji")),
    "image": _caption,
    "video": _caption,
    "document": _caption,
    "interactive": _interactive,
    "location": _location,
    "contacts": _cards,
    "order": _order,
    "edit": _edit,
}
