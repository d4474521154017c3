"""HTML as flat arrays, in one compiled pass: elements in the order in which they open, blocks of text in the order of the page.

No tree of objects and no recursion: whatever the nesting, time is linear in the bytes and memory is bounded by them (elements
deeper than DEPTH, as in browsers, are not opened; their text belongs to what holds them). Forgiving as browsers are where it
matters for text: end tags that are left out, crossed or stray, unquoted attributes, a `<` that begins no tag.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

DEPTH = 512  # open elements; Chromium's bound
ROW_BYTES = 200  # a paragraph that ends in a table row shorter than this does not break the row: layout tables hold longer text

# What a tag is to the pass.
BLOCK, VOID, RAW, SKIP, CELL, ROW, ITEM, LIST, TABLE, PRE, LINK, BREAK, HARD, PARA, INLINE = (1 << i for i in range(15))
# What an element's name, class, id or role says that it holds, inherited by what is in it.
NAV, SIDE, COMMENT, SOCIAL, META, AD, FOOT, HEAD, FORM, CONTENT, FIGURE, QUOTE, PROMO = (1 << i for i in range(13))
FLAGS = 13
# Names of attributes that are looked at.
NAMED, PROPERTY, VALUE, LANG, HREF, REL, STYLE, HIDDEN = range(1, 9)
# Spans of data that say something of the page.
TITLE, OG_TITLE, LANGUAGE, CANONICAL = range(0, 8, 2)
# Kinds of blocks.
OTHER, PARAGRAPH, BULLET, CODE, CELLS, CAPTION, TERM, HEADING = range(8)  # HEADING + level - 1 for h1 to h6

TAGS = {
    BLOCK: "html body div section article main aside nav header footer form fieldset address blockquote figure center details "
    "summary hgroup dir menu legend app optgroup",
    BLOCK | HARD: "h1 h2 h3 h4 h5 h6 figcaption caption thead tbody tfoot dt dd",
    BLOCK | LIST: "ul ol dl",
    BLOCK | TABLE: "table",
    BLOCK | ROW: "tr",
    BLOCK | ITEM: "li",
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
KINDS = {"p": PARAGRAPH, "li": BULLET, "pre": CODE, "listing": CODE, "tr": CELLS, "figcaption": CAPTION, "caption": CAPTION, "dt": TERM,
         "dd": BULLET} | {f"h{i}": HEADING + i - 1 for i in range(1, 7)}
TAG_FLAGS = {"nav": NAV, "menu": NAV, "aside": SIDE, "footer": FOOT, "header": HEAD, "form": FORM, "fieldset": FORM, "article": CONTENT,
             "main": CONTENT, "figure": FIGURE, "blockquote": QUOTE, "address": META, "details": 0}
WORDS = {
    NAV: "nav navigation navbar menu menus submenu breadcrumb breadcrumbs pagination pager paging toolbar toc topbar tabs skip "
    "prevnext nextprev jump dropdown languages pathway",
    SIDE: "sidebar side aside widget widgets rail related recommended recommendations recommend more popular trending mostread latest "
    "complementary similar teaser teasers carousel onward readmore suggestions also sidebars rightcol leftcol card cards",
    COMMENT: "comment comments disqus respond reply replies commentlist discussion reactions feedback livefyre viafoura",
    SOCIAL: "share sharing sharer shares social follow facebook twitter sharebar addthis addtoany sharedaddy sociable whatsapp",
    META: "byline author meta date time timestamp dateline published tags tag category categories credit credits bio avatar posted "
    "taxonomy labels",
    AD: "ad ads advert advertisement advertising sponsor sponsored dfp adsense outbrain taboola partner partners",
    FOOT: "footer copyright contentinfo colophon disclaimer legal bottom",
    HEAD: "header masthead banner logo branding top",
    PROMO: "promo promotion newsletter subscribe subscription signup login register popup modal overlay cookie cookies consent gdpr "
    "paywall donate cta alert notice print tooltip",
    CONTENT: "article content entry post story articlebody body main text blog page hentry maincontent postcontent bodytext",
    FIGURE: "caption figure gallery image photo slideshow",
}  # fmt: skip
ATTRIBUTES = {"class": NAMED, "id": NAMED, "role": NAMED, "itemprop": NAMED, "property": PROPERTY, "name": PROPERTY, "content": VALUE,
              "lang": LANG, "href": HREF, "rel": REL, "style": STYLE, "hidden": HIDDEN}

# Columns of elements and blocks.
E_PARENT, E_TAG, E_FLAGS, E_TEXT, E_LINK = range(5)
B_START, B_END, B_OWNER, B_KIND, B_LINK, B_WORDS, B_MARKS, B_NUMBER, B_LEVEL, B_LINKS, B_ENDS, B_CAPS = range(12)


def word_hash(word: str) -> int:
    """FNV-1a, as in the pass."""
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _lookup(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Open addressing: keys uint64[2048] (0: free), values int64[2048]."""
    keys, found = np.zeros(2048, np.uint64), np.zeros(2048, np.int64)
    for word, value in values.items():
        slot = word_hash(word) & 2047
        while keys[slot]:
            slot = slot + 1 & 2047
        keys[slot], found[slot] = word_hash(word), value
    return keys, found


NAMES = [name for names in TAGS.values() for name in names.split()]
TAG_OF = {name: i + 1 for i, name in enumerate(NAMES)}
TAG_KEYS, TAG_VALUES = _lookup(TAG_OF)
WORD_KEYS, WORD_VALUES = _lookup({word: flag for flag, words in WORDS.items() for word in words.split()})
ATTRIBUTE_KEYS, ATTRIBUTE_VALUES = _lookup(ATTRIBUTES)
CLASS = np.array([0] + [what for what, names in TAGS.items() for _ in names.split()], np.int64)
KIND = np.array([OTHER] + [KINDS.get(name, OTHER) for name in NAMES], np.int64)
OWN_FLAGS = np.array([0] + [TAG_FLAGS.get(name, 0) for name in NAMES], np.int64)
BODY, HTML, HEAD_TAG, TITLE_TAG, META_TAG, LINK_TAG, OL, PARA_TAG, TD_TAG, TH_TAG = (
    TAG_OF[name] for name in ("body", "html", "head", "title", "meta", "link", "ol", "p", "td", "th"))
OG, TWITTER, CANON = (np.uint64(word_hash(word)) for word in ("og:title", "twitter:title", "canonical"))


class Markup(NamedTuple):
    """`text` (uint8) holds the blocks' text, white space collapsed but in code, entities as they stand."""

    text: np.ndarray
    elements: np.ndarray  # int32[n, 5]: E_PARENT (-1 of the first, the page), E_TAG, E_FLAGS, E_TEXT and E_LINK (bytes, descendants' too)
    blocks: np.ndarray  # int32[n, 12]: see B_
    spans: np.ndarray  # int64[8]: begin and end in the page of TITLE, OG_TITLE, LANGUAGE, CANONICAL; 0, 0: none
    deepest: int  # elements that were open at once, at most DEPTH


def scan(page: bytes) -> Markup:
    """Elements and blocks of a page in UTF-8 (or anything that ASCII is a part of)."""
    data = np.frombuffer(page, np.uint8)
    n_tags = page.count(b"<") + 2
    text, spans = np.empty(len(data) + 64, np.uint8), np.zeros(8, np.int64)
    elements, blocks = np.empty((n_tags, 5), np.int32), np.empty((n_tags, 12), np.int32)
    n_elements, n_blocks, deepest = _scan(data, text, elements, blocks, spans)
    return Markup(text, elements[:n_elements], blocks[:n_blocks], spans, deepest)


@njit(inline="always")
def _is_space(c):
    return c == 32 or (9 <= c <= 13)


@njit(inline="always")
def _find(keys, values, key):
    slot = np.int64(key & np.uint64(2047))
    while keys[slot]:
        if keys[slot] == key:
            return values[slot]
        slot = slot + 1 & 2047
    return 0


@njit
def _hash(data, i, end):
    """Of lower-case bytes."""
    value = np.uint64(0xCBF29CE484222325)
    for k in range(i, end):
        c = data[k]
        value = (value ^ np.uint64(c + 32 if 65 <= c <= 90 else c)) * np.uint64(0x100000001B3)
    return value


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
def _attributes(data, i, tag, spans):
    """Reads a start tag from after its name: (place after it, flags, hidden, whether it has a href)."""
    n = len(data)
    flags, hidden, href = 0, False, False
    prop = np.uint64(0)
    value_begin = value_end = href_begin = href_end = 0
    while i < n and data[i] != 62:
        if _is_space(data[i]) or data[i] == 47:
            i += 1
            continue
        begin = i
        while i < n and not (_is_space(data[i]) or data[i] == 61 or data[i] == 62 or data[i] == 47 and i > begin):
            i += 1
        name = _find(ATTRIBUTE_KEYS, ATTRIBUTE_VALUES, _hash(data, begin, min(i, begin + 12)))
        if i == begin:
            i += 1  # a stray =
        while i < n and _is_space(data[i]):
            i += 1
        begin = end = i
        if i < n and data[i] == 61:
            i += 1
            while i < n and _is_space(data[i]):
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
                while i < n and not _is_space(data[i]) and data[i] != 62:
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
def _end_of_raw(data, i, name, end):
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
def _opener(classes, tags, depth, tag):
    """The place on the stack of what the end tag closes, or of what a start tag closes by coming (tag < 0: its class); -1: none."""
    what = CLASS[tag] if tag > 0 else -tag
    table_part = what & (CELL | ROW | TABLE | HARD)
    k = depth - 1
    while k > 0:
        if (tags[k] == tag) if tag > 0 else (classes[k] & what):
            return k
        if tag < 0 and (classes[k] & (LIST if what & ITEM else TABLE)):
            return -1
        if tag > 0 and not table_part and classes[k] & (CELL | TABLE):
            return -1
        k -= 1
    return -1


@njit(cache=True, nogil=True)
def _scan(data, text, elements, blocks, spans):
    n = len(data)
    stack, tags, classes, kinds = np.empty(DEPTH, np.int32), np.empty(DEPTH, np.int64), np.empty(DEPTH, np.int64), np.empty(DEPTH, np.int64)
    counters = np.zeros(DEPTH, np.int64)
    n_open = np.zeros(len(CLASS), np.int64)
    deepest = n_blocks = 0
    elements[0] = -1, 0, 0, 0, 0  # the page: never closed
    stack[0], tags[0], classes[0], kinds[0], depth, n_elements = 0, 0, BLOCK, OTHER, 1, 1
    skip = pre = link = -1  # the depth from which on text is left out, verbatim, a link's; -1: none
    lists = number = 0
    i = o = begin = 0
    links = link_bytes = words = marks = ends = caps = 0
    while True:
        flush = done = i >= n
        pop_to, push, what, tag, flags, hidden = -1, False, 0, 0, 0, False
        if not flush and data[i] != 60:  # text
            if skip >= 0:
                while i < n and data[i] != 60:
                    i += 1
                continue
            was = o
            space = o == begin or _is_space(text[o - 1])
            while i < n and data[i] != 60:
                c = data[i]
                i += 1
                if pre >= 0:
                    text[o] = c
                    o += 1
                    continue
                if c <= 32:
                    if not space:
                        text[o] = 32
                        o += 1
                        space = True
                    continue
                if space:
                    words += 1
                    caps += 65 <= c <= 90
                    space = False
                text[o] = c
                o += 1
                if c == 44 or c == 59 or c == 58:
                    marks += 1
                elif c == 46 or c == 33 or c == 63:
                    ends += i >= n or data[i] <= 32 or data[i] == 60 or data[i] == 34
                elif c == 0x82 and o - begin > 2 and text[o - 2] == 0x80 and text[o - 3] == 0xE3:
                    ends += 1
            if link >= 0:
                link_bytes += o - was
            continue
        if not flush:  # a tag, a comment, or a bare <
            c = data[i + 1] if i + 1 < n else np.uint8(0)
            closing = c == 47
            at = i + 2 if closing else i + 1
            if c == 33 and i + 3 < n and data[i + 2] == 45 and data[i + 3] == 45:
                i = _end_of_comment(data, i + 4)
                continue
            if c == 33 or c == 63 or (closing and not (at < n and 65 <= (data[at] & 0xDF) <= 90)):
                while i < n and data[i] != 62:
                    i += 1
                i += 1
                continue
            if not (at < n and 65 <= (data[at] & 0xDF) <= 90):
                if skip < 0:
                    text[o] = 60
                    o += 1
                i += 1
                continue
            end = at
            while end < n and not (_is_space(data[end]) or data[end] == 62 or data[end] == 47):
                end += 1
            tag = _find(TAG_KEYS, TAG_VALUES, _hash(data, at, min(end, at + 16)))
            what = CLASS[tag]
            i, flags, hidden, href = _attributes(data, end, tag, spans)
            if closing:
                if what & LINK:
                    link = -1
                elif what & INLINE:
                    pop_to = depth - 1 if tags[depth - 1] == tag else -1
                elif tag:
                    pop_to = _opener(classes, tags, depth, tag) if n_open[tag] else -1
                    flush = (what & BLOCK) != 0
            elif what & RAW:
                close = _end_of_raw(data, i, at, end)
                if tag == TITLE_TAG and not spans[TITLE + 1]:
                    spans[TITLE], spans[TITLE + 1] = i, close
                i = close
                while i < n and data[i] != 62:
                    i += 1
                i += 1
                continue
            elif what & BREAK:
                if skip < 0 and o > begin:
                    while o > begin and text[o - 1] == 32 and pre < 0:
                        o -= 1
                    flush = pre < 0 and o > begin and text[o - 1] == 10
                    if not flush and o > begin:
                        text[o] = 10
                        o += 1
            elif what & LINK:
                link = depth if href else -1
                links += href
            elif what & VOID:
                flush = (what & BLOCK) != 0
            else:
                if what & BLOCK:
                    flush = True
                    pop_to = _para(tags, classes, depth) if n_open[PARA_TAG] else -1
                if tag == BODY and n_open[HEAD_TAG]:
                    pop_to = _opener(classes, tags, depth, HEAD_TAG)
                if what & (ITEM | ROW | CELL):
                    found = _opener(classes, tags, depth, -(what & (ITEM | ROW | CELL)))
                    pop_to = found if found >= 0 else pop_to
                # Inline elements matter only to find the end of a hidden one.
                push = what & (BLOCK | CELL | SKIP) != 0 or (tag and (hidden or classes[depth - 1] & INLINE))
        # Paragraphs in short table rows do not break them.
        if flush and not done and o - begin < ROW_BYTES and n_open[TD_TAG] + n_open[TH_TAG] and not what & BREAKS_ROWS:
            flush = False
            if o > begin and not _is_space(text[o - 1]):
                text[o] = 32
                o += 1
        if flush:
            if pre < 0:
                while o > begin and _is_space(text[o - 1]):
                    o -= 1
            else:
                while o > begin and text[o - 1] == 10:
                    o -= 1
            if o > begin:
                b = blocks[n_blocks]
                n_blocks += 1
                b[B_START], b[B_END], b[B_OWNER], b[B_KIND] = begin, o, stack[depth - 1], kinds[depth - 1]
                b[B_LINK], b[B_WORDS], b[B_MARKS], b[B_NUMBER] = min(link_bytes, o - begin), words, marks, number
                b[B_LEVEL], b[B_LINKS], b[B_ENDS], b[B_CAPS] = lists, links, ends, caps
                number = 0
            begin = o
            link_bytes = words = marks = ends = caps = 0
            links = 1 if link >= 0 else 0
        if done:
            break
        if pop_to >= 0:
            while depth > pop_to:
                depth -= 1
                n_open[tags[depth]] -= 1
                lists -= (classes[depth] & LIST) != 0
            skip = -1 if skip >= depth else skip
            pre = -1 if pre >= depth else pre
            link = -1 if link > depth else link
        if what & CELL and push and o > begin:
            while o > begin and text[o - 1] == 32:
                o -= 1
            text[o], text[o + 1], text[o + 2] = 32, 124, 32
            o += 3
        if push and depth < DEPTH:
            e = elements[n_elements]
            e[E_PARENT], e[E_TAG] = stack[depth - 1], tag
            e[E_FLAGS] = OWN_FLAGS[tag] | (0 if tag == BODY or tag == HTML else flags)
            e[E_TEXT] = e[E_LINK] = 0
            own = KIND[tag]
            above = kinds[depth - 1]
            kinds[depth] = own if own != OTHER and not (own == PARAGRAPH and above in (BULLET, CELLS, CAPTION)) else above
            if what & (LIST | TABLE) and not what & ITEM:
                kinds[depth] = OTHER
            stack[depth], tags[depth], classes[depth], counters[depth] = n_elements, tag, what, 0
            if what & ITEM:
                ordered = tags[depth - 1] == OL
                if ordered:
                    counters[depth - 1] += 1
                number = counters[depth - 1] if ordered else -1
            lists += (what & LIST) != 0
            skip = depth if skip < 0 and (what & SKIP or hidden and tag != BODY and tag != HTML) else skip
            pre = depth if pre < 0 and what & PRE else pre
            n_open[tag] += 1
            n_elements += 1
            depth += 1
            deepest = max(deepest, depth)
    for k in range(n_blocks):
        elements[blocks[k, B_OWNER], E_TEXT] += blocks[k, B_END] - blocks[k, B_START]
        elements[blocks[k, B_OWNER], E_LINK] += blocks[k, B_LINK]
    for k in range(n_elements - 1, 0, -1):
        elements[elements[k, E_PARENT], E_TEXT] += elements[k, E_TEXT]
        elements[elements[k, E_PARENT], E_LINK] += elements[k, E_LINK]
    return n_elements, n_blocks, deepest


@njit
def _para(tags, classes, depth):
    """The place on the stack of the open paragraph that a block closes, or -1."""
    k = depth - 1
    while k > 0 and not classes[k] & (CELL | TABLE):
        if tags[k] == PARA_TAG:
            return k
        if classes[k] & BLOCK:
            return -1
        k -= 1
    return -1
