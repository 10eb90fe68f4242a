"""E-mail (RFC 5322, MIME) → its headers and its body as text. Runs in the confined child."""

from __future__ import annotations

from datetime import UTC, datetime
from email import policy
from email.errors import MessageError
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from jobs.indexing.clean import clean, decode
from jobs.indexing.formats.document import Parsed, one_line
from jobs.indexing.reasons import ParseFailure, Reason

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
# What the header parsers of the standard library let out on damaged headers.
_DAMAGE = (MessageError, LookupError, ValueError, AttributeError, TypeError, AssertionError)


def read_mail(data: bytes, name: str, max_chars: int) -> Parsed:
    """Read one message; attachments are named in the metadata, not read. Raises `ParseFailure`."""
    try:
        message = BytesParser(policy=policy.default).parsebytes(data)
    except RecursionError:
        raise ParseFailure(Reason.NESTED_TOO_DEEP, "the message's parts are nested too deep") from None
    if not isinstance(message, EmailMessage):
        raise ParseFailure(Reason.MALFORMED, "the file is no e-mail message")
    headers = {field: value for field in _SHOWN if (value := _header(message, field))}
    body = _body(message)
    if not headers and not body:
        raise ParseFailure(Reason.EMPTY, "the message has neither headers nor text")
    text = clean("\n".join(f"{field}: {value}" for field, value in headers.items()) + "\n\n" + body).strip()
    if len(text) > max_chars:
        raise ParseFailure(Reason.TOO_LARGE, f"the message holds more than {max_chars} characters")
    metadata: dict[str, Any] = {field.lower(): value for field, value in headers.items() if field != "Subject"}
    if attachments := _attachments(message):
        metadata["attachments"] = attachments
    return Parsed(text, "text", headers.get("Subject") or name, metadata=metadata, updated_at=_date(message))


def _header(message: EmailMessage, field: str) -> str:
    try:
        return one_line(str(message[field] or ""))
    except _DAMAGE:
        return ""


def _body(message: EmailMessage) -> str:
    """The plain text, else the HTML part as text; a damaged structure falls back to the first text part."""
    try:
        part = message.get_body(("plain", "html")) or message
    except _DAMAGE:
        part = next((p for p in message.walk() if p.get_content_maintype() == "text"), message)
    if part.get_content_maintype() != "text":
        return ""
    try:
        payload = part.get_payload(decode=True)
    except _DAMAGE:
        payload = None
    if not isinstance(payload, bytes):
        return ""
    content = decode(payload, part.get_content_charset()) if payload else ""
    return _from_html(content) if part.get_content_subtype() == "html" else content.strip()


def _from_html(content: str) -> str:
    from selectolax.lexbor import LexborHTMLParser

    from jobs.indexing.formats.html import remove_hidden, to_markdown

    tree = LexborHTMLParser(content)
    remove_hidden(tree)
    return to_markdown(tree.body) if tree.body else ""


def _attachments(message: EmailMessage) -> list[str]:
    try:
        return [one_line(part.get_filename() or part.get_content_type()) for part in message.iter_attachments()][:100]
    except _DAMAGE:
        return []


def _date(message: EmailMessage) -> datetime | None:
    try:
        moment = getattr(message["Date"], "datetime", None)
        return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (*_DAMAGE, OverflowError):
        return None
