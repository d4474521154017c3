"""What e-mail addresses and IP addresses look like, and what only looks like them. Finders: see `spans`."""

from __future__ import annotations

import ipaddress
import re

from pipelines.signals.domains import TOP_LEVEL
from pipelines.signals.spans import NONE, Spans

# ---- e-mail: the dot-atom of RFC 5322, without marks that text puts around addresses; limits of RFC 5321, 4.5.3.1 ----

LOCAL = rb"(?<![\w%+-])(?<![\w%+-]\.)(?<!://)([\w%+-](?:\.?[\w%+-]){0,63})@"
EMAIL = re.compile(
    LOCAL + rb"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z][A-Za-z0-9-]{0,22}[A-Za-z0-9]))"
    rb"(?![\w(@]|-\w|\.\w)"
)
# a domain in another script than ASCII (RFC 5890), two labels at least
INTERNATIONAL = re.compile(LOCAL + rb"([A-Za-z0-9\x80-\xff-]{1,63}\.[A-Za-z0-9.\x80-\xff-]{2,96})")
LABELS = re.compile(r"(?:[^\W_](?:[^\W_]|-){0,61}\.){1,8}((?:[^\W\d_]|-){2,24}|xn--[a-z0-9-]{2,20})", re.IGNORECASE)
# top-level domains that end names of files, methods, units of systemd, and what manuals say (your.name@goes.here)
WRITTEN_IN_CODE = frozenset("call data dot fit here java map mov open read run save select target zip".split())
RESERVED = re.compile(rb"(?i)(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$")  # RFC 2606
STAND_IN = re.compile(  # whole hosts that manuals use: mail.com, abc.com and every mail.university.edu are somebody's
    rb"(?i)(?:^|\.)(?:(?:(?:your|my|some|any|the)-?(?:domain|company|site|server|host|organi[sz]ation)|"
    rb"your-?(?:e?mail|address)|domain|company|site|server|host|foo|bar|baz|foobar|xxx+|xyz)\.(?:com|org|net|edu|info|country)|"
    rb"(?:contoso|fabrikam|litwareinc|wingtiptoys|northwindtraders)\.(?:com|org|net|onmicrosoft\.com))$"  # Microsoft's
)
NOBODY = {b"git", b"hg", b"svn"}  # user names of repository addresses: git@github.com:owner/name
IN_URL = re.compile(rb"://(?!mailto:)[^\s/@?#&]*$")  # what stands before @ there is a user with a password
URL_BYTES = 128


def email(text: bytes, at: int) -> Spans:
    """An address in a domain that exists, as far as its end tells."""
    match = EMAIL.match(text, at)
    domain = match[2] if match and _ends_well(match[2].decode()) and not _is_product(match[1], match[2]) else b""
    if not domain and (match := INTERNATIONAL.match(text, at)):
        domain = _international(match[2])
    if not domain or IN_URL.search(text[max(at - URL_BYTES, 0) : at]):
        return NONE
    local = match[1].lstrip(b"%+-")
    of_nobody = not local or local in NOBODY or local.startswith(b"your")
    if of_nobody or RESERVED.search(domain) or STAND_IN.search(domain):
        return NONE
    return ((match.end(1) - len(local), match.start(2) + len(domain)),)


def _ends_well(domain: str) -> bool:
    """Whether its end is a top-level domain, written as people write it: not q@k.mT."""
    top = domain.rpartition(".")[2]
    if top not in (top.lower(), top.upper(), top.capitalize()):
        return False
    return top.lower() in TOP_LEVEL and top.lower() not in WRITTEN_IN_CODE


def _is_product(local: bytes, domain: bytes) -> bool:
    """Of matrices: x@w.to, self.q@self.k.mt."""
    *_, name, top = domain.lower().split(b".")
    return len(name) == 1 and (len(local) == 1 or top == b"mt")


def _international(domain: bytes) -> bytes:
    """As much of it as is a domain in other letters than ASCII; nothing if that has no top-level domain."""
    labels = None if domain.isascii() else LABELS.match(domain.decode("utf-8", "ignore"))
    while labels and not _ends_well(labels[0]):  # the end of a sentence, or its next word
        labels = LABELS.fullmatch(labels[0].rpartition(".")[0])
    return labels[0].encode() if labels and not labels[0].isascii() else b""


# ---- IP addresses: Python's ipaddress says which are global (IANA's special-purpose registries) ----

IPV4 = re.compile(rb"(?<![\w.+-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)")
# 2000::/3 is all that IANA has allocated
IPV6 = re.compile(rb"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:.]{2,36}(?![\w:])")
NUMBERED = re.compile(
    rb"(?i)(?:versions?|\b(?:v|ver|releases?|rel|rev|revision|build|firmware|driver|kernel|patch|"
    rb"update|upgrade|section|sect?|chapter|clause|table|fig|figure|appendix|annex|article|rule|oid|model|part|step|"
    rb"item|edition|level|nginx|apache|httpd|tomcat|openss[lh]|php|mysql|mariadb|postgres(?:ql)?|sqlite|python|perl|ruby|"
    rb"java|jdk|jre|chrome|chromium|firefox|safari|opera|webkit)\b|\xc2\xa7)[\s.:=(#\"'v-]*$"
)
NETWORK = re.compile(
    rb"(?i)(?:\b|_)(?:ips?|ipv4|dns|hosts?|(?:name)?servers?|address(?:es)?|addr|ping|"
    rb"proxy|gateway|router|tcp|udp|client|remote|resolvers?|whois|traceroute|listen)(?:\b|_)"
)
PORT = re.compile(rb":\d{1,5}\b|/\d{1,2}(?![\d.])")  # or the length of a network's prefix
NAMED = re.compile(rb"[A-Za-z0-9]/$")  # a product with its version: Mozilla/5.0.1.2
PRODUCT = re.compile(rb"\b([A-Z][\w-]+) $")  # the same in a sentence: Flash Player 32.0.0.114


def ipv4(text: bytes, at: int) -> Spans:
    """A public address. Four small numbers are a version or a section unless something near speaks of a network."""
    match = IPV4.match(text, at)
    if not match or not is_global(match[0]):
        return NONE
    parts = [int(part) for part in match[0].split(b".")]
    before = text[max(at - 48, 0) : at]
    counted = parts == list(range(parts[0], parts[0] + 4))  # 1.2.3.4, 5.6.7.8: manuals'
    if counted or NUMBERED.search(before[-24:]) or NAMED.search(before) or _is_version(parts, before):
        return NONE
    if max(parts) < 100 and not (NETWORK.search(before) or before.endswith(b"//") or PORT.match(text, match.end())):
        return NONE
    return (match.span(),)


def _is_version(parts: list[int], before: bytes) -> bool:
    """Whether a product's name stands before it: small numbers, or the first two small and a word that speaks of no
    network. Server 12.2.1.4 is one, server 12.2.1.4, Server: 12.2.1.4 and DNS 4.2.2.2 are not."""
    product = PRODUCT.search(before)
    if not product:
        return False
    if NETWORK.fullmatch(product[1]) or b"IP" in product[1] or b"Addr" in product[1]:
        return max(parts) < 100 and not product[1].isupper()
    small = parts[0] < 64 and (parts[1] < 10 or parts[0] < 40 and parts[1] < 20)
    return small or parts[1] == parts[2] == 0


def ipv6(text: bytes, at: int) -> Spans:
    """A public address; a network (2a00::/32) is nobody's."""
    match = IPV6.match(text, at)
    if not match:
        return NONE
    address = match[0].rstrip(b".")
    address = address[:-1] if address.endswith(b":") and not address.endswith(b"::") else address
    return ((at, at + len(address)),) if is_global(address) and not address.endswith(b"::") else NONE


def is_global(address: bytes) -> bool:
    """Whether it is an address, routed on the internet, of one machine."""
    try:
        parsed = ipaddress.ip_address(address.decode())
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast
