"""Names of HTML as tables for the compiled pass of markup.py: tags, attributes, and words of classes and ids.

Numba's cache of the pass looks at the pass's own file only: after a change here, delete its __pycache__.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# What a tag is to the pass.
BLOCK, VOID, RAW, SKIP, CELL, ROW, ITEM, LIST, TABLE, PRE, LINK, BREAK, HARD, PARA, INLINE = (1 << i for i in range(15))
# What an element's name, class, id or role says that it holds, inherited by what is in it.
NAV, SIDE, COMMENT, SOCIAL, META, AD, FOOT, HEAD, FORM, CONTENT, FIGURE, QUOTE, PROMO = (1 << i for i in range(13))
FLAGS = 13
# Names of attributes that are looked at.
NAMED, PROPERTY, VALUE, LANG, HREF, REL, STYLE, HIDDEN = range(1, 9)
# Spans of the page that say something of it.
TITLE, OG_TITLE, LANGUAGE, CANONICAL = range(0, 8, 2)
BARE, OTHER_MARKUP, START, END = range(4)  # what a < begins
# Kinds of blocks.
OTHER, PARAGRAPH, BULLET, CODE, CELLS, CAPTION, TERM, HEADING = range(8)  # HEADING + level - 1 for h1 to h6
TAGS = {
    BLOCK: "html body div section article main aside nav header footer form fieldset address blockquote figure center "
    "details summary hgroup dir menu legend app optgroup",
    BLOCK | HARD: "h1 h2 h3 h4 h5 h6 figcaption caption thead tbody tfoot",
    BLOCK | LIST: "ul ol dl",
    BLOCK | TABLE: "table",
    BLOCK | ROW: "tr",
    BLOCK | ITEM: "li dt dd",
    BLOCK | PRE: "pre listing",
    BLOCK | PARA: "p",
    INLINE: "span b i em strong small font label time code u s abbr cite q sub sup mark ins del big tt kbd samp var",
    CELL: "td th",
    LINK: "a",
    BREAK | VOID: "br",
    BLOCK | VOID: "hr",
    VOID: "img input meta link area base col embed source track wbr param",
    RAW: "script style textarea title iframe noscript noembed noframes xmp",
    SKIP: "svg template select button canvas object audio video dialog datalist map head",
}
BREAKS_ROWS = HARD | LIST | ITEM | TABLE | ROW | PRE
KINDS = {
    "p": PARAGRAPH,
    "li": BULLET,
    "pre": CODE,
    "listing": CODE,
    "tr": CELLS,
    "figcaption": CAPTION,
    "caption": CAPTION,
    "dt": TERM,
    "dd": BULLET,
} | {f"h{i}": HEADING + i - 1 for i in range(1, 7)}
TAG_FLAGS = {
    "nav": NAV,
    "menu": NAV,
    "aside": SIDE,
    "footer": FOOT,
    "header": HEAD,
    "form": FORM,
    "fieldset": FORM,
    "article": CONTENT,
    "main": CONTENT,
    "figure": FIGURE,
    "blockquote": QUOTE,
    "address": META,
    "details": 0,
}
WORDS = {
    NAV: "nav navigation navbar menu menus submenu breadcrumb breadcrumbs pagination pager paging toolbar toc topbar "
    "tabs skip prevnext nextprev jump dropdown languages pathway",
    SIDE: "sidebar side aside widget widgets rail related recommended recommendations recommend more popular trending "
    "mostread latest complementary similar teaser teasers carousel onward readmore suggestions also sidebars rightcol "
    "leftcol card cards",
    COMMENT: "comment comments disqus respond reply replies commentlist discussion reactions feedback livefyre "
    "viafoura",
    SOCIAL: "share sharing sharer shares social follow facebook twitter sharebar addthis addtoany sharedaddy sociable "
    "whatsapp",
    META: "byline author meta date time timestamp dateline published tags tag category categories credit credits bio "
    "avatar posted taxonomy labels",
    AD: "ad ads advert advertisement advertising sponsor sponsored dfp adsense outbrain taboola partner partners",
    FOOT: "footer copyright contentinfo colophon disclaimer legal bottom",
    HEAD: "header masthead banner logo branding top",
    PROMO: "promo promotion newsletter subscribe subscription signup login register popup modal overlay cookie cookies "
    "consent gdpr paywall donate cta alert notice print tooltip",
    CONTENT: "article content entry post story articlebody body main text blog page hentry maincontent postcontent "
    "bodytext",
    FIGURE: "caption figure gallery image photo slideshow",
}  # fmt: skip
ATTRIBUTES = {
    "class": NAMED,
    "id": NAMED,
    "role": NAMED,
    "itemprop": NAMED,
    "property": PROPERTY,
    "name": PROPERTY,
    "content": VALUE,
    "lang": LANG,
    "href": HREF,
    "rel": REL,
    "style": STYLE,
    "hidden": HIDDEN,
}


def word_hash(word: str) -> int:
    """FNV-1a, as in the pass."""
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _lookup(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Open addressing: keys uint64[2048] (0: free), values int64[2048]."""
    keys, slot_values = np.zeros(2048, np.uint64), np.zeros(2048, np.int64)
    for word, value in values.items():
        slot = word_hash(word) & 2047
        while keys[slot]:
            slot = slot + 1 & 2047
        keys[slot], slot_values[slot] = word_hash(word), value
    return keys, slot_values


NAMES = [name for names in TAGS.values() for name in names.split()]
TAG_OF = {name: i + 1 for i, name in enumerate(NAMES)}
TAG_KEYS, TAG_VALUES = _lookup(TAG_OF)
WORD_KEYS, WORD_VALUES = _lookup({word: flag for flag, words in WORDS.items() for word in words.split()})
ATTRIBUTE_KEYS, ATTRIBUTE_VALUES = _lookup(ATTRIBUTES)
CLASS = np.array([0] + [what for what, names in TAGS.items() for _ in names.split()], np.int64)
KIND = np.array([OTHER] + [KINDS.get(name, OTHER) for name in NAMES], np.int64)
OWN_FLAGS = np.array([0] + [TAG_FLAGS.get(name, 0) for name in NAMES], np.int64)
BODY, HTML, HEAD_TAG, TITLE_TAG, META_TAG, LINK_TAG, OL, LI, PARA_TAG, TD_TAG, TH_TAG = (
    TAG_OF[name] for name in ("body", "html", "head", "title", "meta", "link", "ol", "li", "p", "td", "th")
)
TABLE_TAG = TAG_OF["table"]
HEADS = tuple(TAG_OF[name] for name in ("th", "thead", "caption"))  # what a table of data has
OG, TWITTER, CANON = (np.uint64(word_hash(word)) for word in ("og:title", "twitter:title", "canonical"))


@njit
def lex(data, i):
    """What the < at i begins: (BARE, OTHER_MARKUP, START or END; begin of the name; its end, or the place to go on)."""
    n = len(data)
    c = data[i + 1] if i + 1 < n else np.uint8(0)
    closing = c == 47
    name = i + 2 if closing else i + 1
    if c == 33 and i + 3 < n and data[i + 2] == 45 and data[i + 3] == 45:
        return OTHER_MARKUP, name, _end_of_comment(data, i + 4)
    is_name = name < n and 65 <= (data[name] & 0xDF) <= 90
    if c == 33 or c == 63 or (closing and not is_name):
        return OTHER_MARKUP, name, after(data, i)
    if not is_name:
        return BARE, name, i + 1
    end = name
    while end < n and not (is_space(data[end]) or data[end] == 62 or data[end] == 47):
        end += 1
    return (END if closing else START), name, end


@njit
def attributes(data, i, tag, spans):
    """Reads a start tag from after its name: (place after it, flags, hidden, whether it has a href)."""
    n = len(data)
    flags, hidden, href = 0, False, False
    prop = np.uint64(0)
    value_begin = value_end = href_begin = href_end = 0
    while i < n and data[i] != 62:
        if is_space(data[i]) or data[i] == 47:
            i += 1
            continue
        begin = i
        while i < n and not (is_space(data[i]) or data[i] == 61 or data[i] == 62 or data[i] == 47 and i > begin):
            i += 1
        name = _find(ATTRIBUTE_KEYS, ATTRIBUTE_VALUES, _hash(data, begin, min(i, begin + 12)))
        if i == begin:
            i += 1  # a stray =
        while i < n and is_space(data[i]):
            i += 1
        begin = end = i
        if i < n and data[i] == 61:
            i += 1
            while i < n and is_space(data[i]):
                i += 1
            if i < n and (data[i] == 34 or data[i] == 39):
                quote = data[i]
                i += 1
                begin = i
                while i < n and data[i] != quote:
                    i += 1
                end = i
                i += 1
            else:
                begin = i
                while i < n and not is_space(data[i]) and data[i] != 62:
                    i += 1
                end = i
        if name == NAMED:
            flags |= _words(data, begin, end)
        elif name == HIDDEN:
            hidden = True
        elif name == STYLE:
            hidden |= _undisplayed(data, begin, end)
        elif name == HREF:
            href, href_begin, href_end = True, begin, end
        elif name == VALUE:
            value_begin, value_end = begin, end
        elif name == PROPERTY or name == REL:
            prop = _hash(data, begin, end)
        elif name == LANG and tag == HTML:
            spans[LANGUAGE], spans[LANGUAGE + 1] = begin, end
    if tag == META_TAG and (prop == OG or prop == TWITTER and not spans[OG_TITLE + 1]):
        spans[OG_TITLE], spans[OG_TITLE + 1] = value_begin, value_end
    if tag == LINK_TAG and prop == CANON:
        spans[CANONICAL], spans[CANONICAL + 1] = href_begin, href_end
    return min(i + 1, n), flags, hidden, href


@njit
def _undisplayed(data, i, end):
    """Whether a style says display:none."""
    state = 0
    want = np.array([100, 105, 115, 112, 108, 97, 121, 58, 110, 111, 110, 101], np.uint8)
    for k in range(i, end):
        c = data[k] | 32 if 65 <= data[k] <= 90 else data[k]
        if c == 32:
            continue
        state = state + 1 if c == want[state] else (1 if c == 100 else 0)
        if state == 12:
            return True
    return False


@njit
def _words(data, i, end):
    """Flags of the words of a class or id: runs of letters, cut at camelCase."""
    flags = 0
    while i < end:
        while i < end and not (65 <= (data[i] & 0xDF) <= 90):
            i += 1
        begin = i
        value = np.uint64(0xCBF29CE484222325)
        while i < end and 65 <= (data[i] & 0xDF) <= 90 and not (i > begin and data[i] <= 90 and data[i - 1] >= 97):
            value = (value ^ np.uint64(data[i] | 32)) * np.uint64(0x100000001B3)
            i += 1
        if 2 <= i - begin <= 20:
            flags |= _find(WORD_KEYS, WORD_VALUES, value)
    return flags


@njit
def end_of_raw(data, i, name, end):
    """Where `</name` of a raw-text element begins, or the end."""
    n, size = len(data), end - name
    while i + size + 1 < n:
        if data[i] == 60 and data[i + 1] == 47:
            k = 0
            while k < size and (data[i + 2 + k] | 32) == (data[name + k] | 32):
                k += 1
            if k == size:
                return i
        i += 1
    return n


@njit
def _end_of_comment(data, i):
    """After the --> of a comment whose text begins at i, or the end. `<!-->` and `<!--->` are whole comments."""
    n = len(data)
    if i < n and data[i] == 62:
        return i + 1
    while i + 2 < n:
        if data[i] == 45 and data[i + 1] == 45 and data[i + 2] == 62:
            return i + 3
        i += 1
    return n


@njit
def after(data, i):
    """After the next >, or the end."""
    while i < len(data) and data[i] != 62:
        i += 1
    return min(i + 1, len(data))


@njit
def _hash(data, i, end):
    """Of lower-case bytes."""
    value = np.uint64(0xCBF29CE484222325)
    for k in range(i, end):
        c = data[k]
        value = (value ^ np.uint64(c + 32 if 65 <= c <= 90 else c)) * np.uint64(0x100000001B3)
    return value


@njit(inline="always")
def _find(keys, values, key):
    slot = np.int64(key & np.uint64(2047))
    while keys[slot]:
        if keys[slot] == key:
            return values[slot]
        slot = slot + 1 & 2047
    return 0


@njit(inline="always")
def is_space(c):
    return c == 32 or (9 <= c <= 13)


@njit
def tag_at(data, name, end):
    """The tag whose name is data[name:end], 0 when it is none of ours."""
    return _find(TAG_KEYS, TAG_VALUES, _hash(data, name, min(end, name + 16)))
