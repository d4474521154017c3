"""Made pages of forums, shops, listings and blogs, whose main content is known because the template says it: LAYOUTS.

A layout has the skeleton of one kind of software (a board of tables, a board of divs, questions and answers ...),
written for this file; a site draws its class names, its menus and bars, and its prose, and makes several pages. Of each
kind the layouts marked False are fitted on, those marked True are held out: no page of these software kinds is seen.

What counts as content: of a thread its title and the posts, not who wrote them and not signatures; of a product its
name, description and table of properties; of a listing the names and teasers of its entries; of a blog's page the
posts, not their comments.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from html import escape
from typing import NamedTuple

PAGES = 6  # of a site
# What sites call the parts of their pages; a site draws one of each role, or none, or a name that says nothing.
CLASSES = {
    "page": "page|wrapper|container|site|outer has-sidebar|layout-with-sidebar|wrap clearfix|l-page menu-open",
    "main": "content|main|primary|col-md-8|main-column|center|left-column|content-area|body|page-main",
    "side": "sidebar|secondary|widget-area|right|col-md-4|rightcol|aside|box|blocks|links",
    "menu": "nav|menu|main-nav|navbar|topmenu|navigation|tabs|links|bar|header-menu",
    "head": "header|masthead|top|banner|site-header|logo|head|title-bar",
    "foot": "footer|site-footer|bottom|colophon|foot|legal|copyright",
    "post": "post|entry|item|message|row|comment|reply|hentry|card|block|node",
    "text": "text|post-body|entry-content|content|message-body|prose|cooked|md|bodytext|description",
    "note": "meta|byline|info|details|postmetadata|author|date|subtext|small",
    "more": "related|recommended|more|also|upsell|carousel|recent|similar|popular|teasers",
    "item": "item|card|product|teaser|result|entry|listing|tile|cell|product-card",
}


class Site:
    """Names and prose of one site. Its pages are made by calls in order: the same seed, the same pages."""

    def __init__(self, seed: str, prose: list[str]):
        self.rng = random.Random(seed)
        self.prose = prose
        self.names: dict[str, str] = {}
        self.name = self.words(2)
        self.menu = [self.words(1, 3) for _ in range(self.rng.randint(4, 30))]
        self.frame = self.rng.choice(FRAMES)
        self.bars = [self.rng.choice(BARS) for _ in range(self.rng.randint(0, 5))]
        self.legal = f"© {self.rng.randint(1999, 2026)} {self.name}. " + self.rng.choice(("", self.sentence()))

    def css(self, role: str) -> str:
        """A class or id for a role, the same all over the site; empty for one site in six."""
        if role not in self.names:
            hashed = f"{self.rng.choice('abcsx')}-{self.rng.getrandbits(24):x}"
            named = self.rng.choice(CLASSES[role].split("|"))
            kind = self.rng.choice(("class", "class", "class", "id" if role in ("main", "side", "menu") else "class"))
            self.names[role] = self.rng.choice((*[f' {kind}="{named}"'] * 4, f' class="{hashed}"', ""))
        return self.names[role]

    def sentence(self) -> str:
        return self.rng.choice(self.rng.choice(self.prose).replace("! ", ". ").split(". ")).strip(" .\n") + "."

    def text(self, least: int = 1, most: int = 5) -> str:
        """A paragraph of some sentences, or one as it stood."""
        if self.rng.random() < 0.3:
            return self.rng.choice(self.prose)
        return " ".join(self.sentence() for _ in range(self.rng.randint(least, most)))

    def words(self, least: int, most: int | None = None) -> str:
        n = self.rng.randint(least, most or least)
        words = [w for w in self.rng.choice(self.prose).split() if w.isalpha()] or ["Page"]
        start = self.rng.randrange(len(words))
        return " ".join((words * 2)[start : start + n]).capitalize()

    def date(self) -> str:
        day, month, year = self.rng.randint(1, 28), self.rng.randint(1, 12), self.rng.randint(2003, 2026)
        return self.rng.choice(
            (f"{year}-{month:02}-{day:02}", f"{day}.{month}.{year}", f"{month}/{day}/{year}, 10:4{day % 10}")
        )

    def price(self) -> str:
        return f"{self.rng.choice('$€£')}{self.rng.randint(2, 900)}.{self.rng.choice(('00', '99', '50'))}"

    def link(self, text: str, more: str = "") -> str:
        return f'<a href="/{self.rng.getrandbits(20):x}"{more}>{escape(text)}</a>'

    def links(self, least: int, most: int) -> str:
        """A list of links in one of the ways that sites write them."""
        links = [self.link(self.words(1, 7)) for _ in range(self.rng.randint(least, most))]
        way = self.rng.randrange(4)
        if way == 0:
            return " | ".join(links)
        if way == 1:
            return "<br>".join(links)
        if way == 2:
            return "".join(f"<div>{link}</div>" for link in links)
        return "<ul>" + "".join(f"<li>{link}</li>" for link in links) + "</ul>"


class Page:
    """One page in the making: what is said in it is its main content."""

    def __init__(self, site: Site):
        self.site, self.said = site, []

    def say(self, text: str) -> str:
        self.said.append(text)
        return escape(text)

    def paragraphs(self, least: int, most: int) -> str:
        """Some paragraphs of content, in <p>, in <div>, or with line breaks between them, and at times code, a list or
        a quotation."""
        site, rng = self.site, self.site.rng
        way = site.names.setdefault("way", rng.choice("ppdb"))
        pieces = []
        for _ in range(rng.randint(least, most)):
            text = self.say(site.text())
            if rng.random() < 0.15:
                text = text.replace(" the ", f" <a href='/{rng.getrandbits(12)}'>the</a> ", 1)
            pieces.append({"p": f"<p>{text}</p>", "d": f"<div>{text}</div>", "b": f"{text}<br><br>\n"}[way])
            odd = rng.random()
            if odd < 0.06:
                lines = [f"{site.words(1).lower()} = {site.words(1).lower()}({rng.randint(0, 99)})" for _ in range(3)]
                pieces.append("<pre><code>" + "\n".join(map(self.say, lines)) + "</code></pre>")
            elif odd < 0.12:
                points = [f"<li>{self.say(site.words(3, 14))}</li>" for _ in range(rng.randint(2, 6))]
                pieces.append(f"<ul>{''.join(points)}</ul>")
            elif odd < 0.16:
                pieces.append(f"<blockquote>{self.say(site.text(1, 2))}</blockquote>")
        return "".join(pieces)


def _columns(site: Site, main: str, bars: list[str]) -> str:
    css, menu = site.css, f"<div{site.css('menu')}>{''.join(f'<li>{site.link(m)}</li>' for m in site.menu)}</div>"
    left, right = bars[: len(bars) // 2], bars[len(bars) // 2 :]
    side = lambda ones: f"<div{css('side')}>{''.join(ones)}</div>" if ones else ""  # noqa: E731
    return (
        f"<div{css('head')}>{site.link(site.name)}<p>{escape(site.legal[:40])}</p></div>{menu}"
        f"<div{css('page')}>{side(left)}<div{css('main')}>{main}</div>{side(right)}</div>"
        f"<div{css('foot')}>{site.links(2, 9)}<p>{escape(site.legal)}</p></div>"
    )


def _semantic(site: Site, main: str, bars: list[str]) -> str:
    aside = f"<aside{site.css('side')}>{''.join(bars)}</aside>" if bars else ""
    menu = "".join(f"<li>{site.link(m)}</li>" for m in site.menu)
    return (
        f"<header{site.css('head')}><nav><ul>{menu}</ul></nav></header><main{site.css('main')}>{main}</main>{aside}"
        f"<footer{site.css('foot')}><p>{escape(site.legal)}</p>{site.links(1, 6)}</footer>"
    )


def _table(site: Site, main: str, bars: list[str]) -> str:
    menu = "<br>".join(site.link(m) for m in site.menu)
    right = f'<td width="1">&nbsp;</td><td width=160 valign=top>{"<hr>".join(bars)}</td>' if bars else "<td></td>"
    return (
        f"<table width=100%><tr><td colspan=3>{site.link(site.name)}</td></tr><tr><td width=140 valign=top>{menu}</td>"
        f"<td></td><td valign=top{site.css('main')}>{main}</td>{right}</tr></table><center>{escape(site.legal)}"
        f"</center>"
    )


def _bare(site: Site, main: str, bars: list[str]) -> str:
    menu = " - ".join(site.link(m) for m in site.menu[:8])
    return f"<p>{menu}</p><hr>{main}<hr>{''.join(bars[:1])}<p><small>{escape(site.legal)}</small></p>"


FRAMES = (_columns, _columns, _columns, _semantic, _semantic, _table, _bare)


def _box(site: Site, title: str, inner: str) -> str:
    return f"<div><h3>{escape(title)}</h3>{inner}</div>"


BARS: tuple[Callable[[Site], str], ...] = (
    lambda site: _box(site, site.words(1, 3), site.links(3, 14)),
    lambda site: _box(site, "About", f"<p>{escape(site.text(1, 3))}</p>"),
    lambda site: _box(site, "Newsletter", f"<form><p>{escape(site.sentence())}</p><input><button>Go</button></form>"),
    lambda site: f"<div class=tags>{' '.join(site.link(site.words(1)) for _ in range(12))}</div>",
    lambda site: f"<div{site.css('more')}>" + "".join(
        f"<div><h4>{site.link(site.words(3, 8))}</h4><p>{escape(site.sentence())}</p></div>" for _ in range(3)
    ) + "</div>",
    lambda site: _box(site, "Recent comments", "".join(
        f"<li>{escape(site.words(1))} on {site.link(site.words(3, 7))}</li>" for _ in range(5)
    )),
    lambda site: f"<div class=ad>Advertisement<br>{site.link(site.sentence())}</div>",
    lambda site: _box(site, "Calendar", f"<table><tr>{''.join(f'<td>{n}</td>' for n in range(1, 29))}</tr></table>"),
)  # fmt: skip


def _related(site: Site, title: str = "Related") -> str:
    items = "".join(
        f"<div{site.css('item')}>{site.link(site.words(3, 9))}<p>{escape(site.sentence())}</p></div>" for _ in range(4)
    )
    return f"<div{site.css('more')}><h3>{title}</h3>{items}</div>"


def _comments(site: Site) -> str:
    """What readers say under a blog's post: no content."""
    if site.rng.random() < 0.4:
        return "<p>No comments yet. " + site.link("Be the first to comment") + "</p>"
    ones = "".join(
        f"<li><div class=comment-author>{escape(site.words(1))} says: {site.date()}</div><p>{escape(site.text(1, 3))}"
        f"</p>"
        f"{site.link('Reply')}</li>"
        for _ in range(site.rng.randint(1, 8))
    )
    return f"<div id=comments><h3>Comments</h3><ol class=commentlist>{ones}</ol><form><p>Leave a reply</p></form></div>"


# Forums


def _board_of_divs(site: Site, page: Page) -> str:
    title = site.words(3, 9)
    posts = ""
    for n in range(site.rng.randint(2, 14)):
        sign = f"<div class=signature>{escape(site.sentence())}</div>" if site.rng.random() < 0.3 else ""
        posts += (
            f"<div{site.css('post')}><div><p{site.css('note')}>by {site.link(site.words(1))} » {site.date()}</p>"
            f"<div{site.css('text')}>{page.paragraphs(1, 4)}</div>{sign}</div><dl><dt>{site.link(site.words(1))}</dt>"
            f"<dd>Posts: {n * 31}</dd><dd>Joined: {site.date()}</dd></dl><ul><li>{site.link('Quote')}</li></ul></div>"
        )
    return f"<p>{site.links(2, 4)}</p><h2>{site.link(page.say(title))}</h2>{posts}<p>{site.links(2, 5)}</p>"


def _board_of_tables(site: Site, page: Page) -> str:
    rows = ""
    for n in range(site.rng.randint(2, 14)):
        sign = f"<br>_________<br>{escape(site.sentence())}" if site.rng.random() < 0.3 else ""
        rows += (
            f"<tr><td width=150 valign=top><b>{escape(site.words(1))}</b><br>Joined: {site.date()}<br>Posts: {n * 17}"
            f"<br>"
            f"Location: {escape(site.words(1))}</td><td valign=top><table><tr><td>Posted: {site.date()}</td>"
            f"<td>{site.link('Quote')}</td></tr><tr><td colspan=2{site.css('text')}>{page.paragraphs(1, 4)}{sign}</td>"
            f"</tr>"
            f"</table></td></tr><tr><td>{site.link('Back to top')}</td><td>{site.link('Profile')} {site.link('PM')}"
            f"</td></tr>"
        )
    head = f"<a class=maintitle href=/t>{page.say(site.words(3, 9))}</a><br>{site.links(2, 4)}"
    return f"{head}<table width=100%><tr><th>Author</th><th>Message</th></tr>{rows}</table>"


def _questions(site: Site, page: Page) -> str:
    def post(least: int, most: int) -> str:
        small = "".join(
            f"<li><span>{page.say(site.sentence())}</span> – {site.link(site.words(1))} {site.date()}</li>"
            for _ in range(site.rng.choice((0, 0, 1, 3)))
        )
        return (
            f"<div{site.css('post')}><div>{site.rng.randint(0, 99)}</div><div{site.css('text')}>"
            f"{page.paragraphs(least, most)}"
            f"</div><div>{site.link('Share')} {site.link('Improve this answer')} {site.link('Follow')}</div>"
            f"<div{site.css('note')}>answered {site.date()} {site.link(site.words(1))} 1,234 5 12</div><ul>{small}"
            f"</ul></div>"
        )

    question = (
        f"<h1>{site.link(page.say(site.words(5, 11)))}</h1><p>Asked {site.date()} Viewed 3k times</p>{post(1, 4)}"
    )
    n = site.rng.randint(0, 6)
    return (
        f"{question}<h2>{n} Answers</h2>{''.join(post(1, 5) for _ in range(n))}<h2>Your answer</h2><form>Sign up</form>"
    )


def _tree(site: Site, page: Page) -> str:
    def replies(depth: int) -> str:
        if depth > 4:
            return ""
        return "".join(
            f"<div{site.css('post')}><div{site.css('note')}>{site.link(site.words(1))} {site.rng.randint(1, 23)} "
            f"hours ago "
            f"[–]</div><div{site.css('text')}>{page.paragraphs(1, 2)}</div>{site.link('reply')}{replies(depth + 1)}"
            f"</div>"
            for _ in range(site.rng.randint(0, 3) if depth else site.rng.randint(2, 6))
        )

    head = (
        f"<h1>{site.link(page.say(site.words(4, 10)))}</h1><p>{site.rng.randint(2, 900)} points by {site.link('x')}</p>"
    )
    return head + replies(0)


def _stream(site: Site, page: Page) -> str:
    posts = "".join(
        f"<article{site.css('post')} id=post_{n}><div>{site.link(site.words(1))}<time>{site.date()}</time></div>"
        f"<div{site.css('text')} itemprop=text>{page.paragraphs(1, 5)}</div><div>{n} Likes</div></article>"
        for n in range(site.rng.randint(1, 16))
    )
    topics = "".join(
        f"<tr><td>{site.link(site.words(3, 8))}</td><td>{n}</td><td>{site.date()}</td></tr>" for n in range(5)
    )
    table = f"<table><tr><th>Topic</th><th>Replies</th><th>Activity</th></tr>{topics}</table>"
    return f"<h1>{site.link(page.say(site.words(3, 9)))}</h1>{posts}<h3>Suggested topics</h3>{table}"


def _list_archive(site: Site, page: Page) -> str:
    lines = ""
    for _ in range(site.rng.randint(2, 8)):
        words = page.say(site.text(1, 4)).split()
        lines += "\n".join(" ".join(words[i : i + 12]) for i in range(0, len(words), 12)) + "\n\n"
    head = f"<h1>{page.say(site.words(3, 9))}</h1><b>{escape(site.words(2))}</b> <a href=mailto:x>x at site.example</a>"
    ways = (f"<li>{way}: {site.link(site.words(3, 8))}</li>" for way in ("Previous message", "Next message"))
    way = f"<ul>{''.join(ways)}</ul>"
    return f"{head}<br><i>{site.date()}</i>{way}<hr><pre>{lines}</pre><hr>{way}"


# Shops


def _properties(site: Site, page: Page, least: int, most: int) -> str:
    return "".join(
        f"<tr><th>{page.say(site.words(1, 3))}</th><td>{page.say(site.words(1, 6))}</td></tr>"
        for _ in range(site.rng.randint(least, most))
    )


def _points(site: Site, page: Page, least: int, most: int) -> str:
    return "".join(f"<li>{page.say(site.words(4, 18))}</li>" for _ in range(site.rng.randint(least, most)))


def _goods(site: Site, title: str) -> str:
    items = "".join(
        f"<li{site.css('item')}>{site.link(site.words(2, 7))}<span>{site.price()}</span>{site.link('Add to cart')}</li>"
        for _ in range(site.rng.randint(3, 9))
    )
    return f"<div{site.css('more')}><h2>{title}</h2><ul>{items}</ul></div>"


def _shop_of_tables(site: Site, page: Page) -> str:
    return (
        f"<table><tr><td>{site.links(2, 4)}</td></tr><tr><td><b>{page.say(site.words(2, 8))}</b></td><td align=right>"
        f"{site.price()}</td></tr><tr><td>{site.link('Click to enlarge')}</td><td{site.css('text')}>"
        f"{page.paragraphs(1, 4)}"
        f"<ul>{_points(site, page, 0, 6)}</ul></td></tr><tr><td>{site.link('Reviews')}</td><td>{site.link('Buy now')}"
        f"</td></tr>"
        f"</table><p>This product was added to our catalogue on {site.date()}.</p>"
        f"{_goods(site, 'Customers also bought')}"
    )


def _shop_of_tabs(site: Site, page: Page) -> str:
    name = site.words(2, 8)
    return (
        f"<nav>{site.links(2, 4)}</nav><div{site.css('post')}><h1>{page.say(name)}</h1><p class=price>{site.price()}"
        f"</p>"
        f"<div>{page.say(site.text(1, 2))}</div><p>In stock</p><form><button>Add to cart</button></form><p>SKU: "
        f"31-{len(name)} "
        f"Categories: {site.link(site.words(1))}</p></div><ul class=tabs><li><a href=#d>Description</a></li></ul>"
        f"<div{site.css('text')}><h2>Description</h2>{page.paragraphs(1, 5)}</div><div><h2>Additional information</h2>"
        f"<table>{_properties(site, page, 0, 9)}</table></div>{_goods(site, 'Related products')}"
    )


def _market(site: Site, page: Page) -> str:
    return (
        f"<div>{site.links(2, 5)}</div><div><h1><span>{page.say(site.words(5, 16))}</span></h1>"
        f"{site.link('Visit the store')}"
        f"<span>4.4 out of 5 stars</span>{site.link('1,204 ratings')}<div><span>{site.price()}</span></div><div><h3>"
        f"About this "
        f"item</h3><ul>{_points(site, page, 3, 7)}</ul></div></div><div>Ships from {escape(site.words(1))}<br>"
        f"{escape(site.sentence())}"
        f"</div>{_goods(site, 'Frequently bought together')}<div{site.css('text')}><h2>Product description</h2>"
        f"{page.paragraphs(1, 4)}</div><div><h2>Technical details</h2><table>{_properties(site, page, 3, 14)}</table>"
        f"</div>"
        f"{_goods(site, 'Sponsored products')}{_goods(site, 'You viewed')}"
    )


def _shop_of_folds(site: Site, page: Page) -> str:
    folds = "".join(
        f"<details{' open' * (n == 0)}><summary>{title}</summary><div>{body}</div></details>"
        for n, (title, body) in enumerate((
            ("Details", page.paragraphs(1, 3)), ("Features", f"<ul>{_points(site, page, 2, 8)}</ul>"),
            ("Specifications", f"<table>{_properties(site, page, 2, 10)}</table>"),
        ))
    )  # fmt: skip
    return (
        f"<section><h1>{page.say(site.words(2, 7))}</h1><div>{site.price()} <s>{site.price()}</s></div><button>"
        f"Add</button>"
        f"<p>Free delivery over {site.price()}</p></section><section{site.css('text')}>{folds}</section>"
        f"{_goods(site, 'Pairs well with')}"
    )


# Listings


def _grid(site: Site, page: Page) -> str:
    items = "".join(
        f"<li{site.css('item')}><h3>{site.link(page.say(site.words(2, 9)))}</h3><p>{page.say(site.text(1, 2))}</p>"
        f"<span>{site.price()}</span>{site.link('Add to cart')}</li>"
        for _ in range(site.rng.randint(6, 30))
    )
    facets = "".join(f"<h4>{escape(site.words(1))}</h4>{site.links(3, 9)}" for _ in range(site.rng.randint(1, 5)))
    return (
        f"<h1>{page.say(site.words(1, 4))}</h1><div>{page.say(site.text(1, 3))}</div><form>Sort by <select><option>"
        f"Price"
        f"</select></form><div>{facets}</div><ul>{items}</ul><div class=pagination>{site.links(3, 8)}</div>"
    )


def _teasers(site: Site, page: Page) -> str:
    items = "".join(
        f"<div{site.css('post')}><h2>{site.link(page.say(site.words(4, 11)))}</h2><div{site.css('note')}>{site.date()}"
        f" by "
        f"{site.link(site.words(2))}</div><p>{page.say(site.text(1, 4))} {site.link('Read more')}</p></div>"
        for _ in range(site.rng.randint(5, 20))
    )
    return f"<h1>{page.say(site.words(1, 3))}</h1>{items}<div>{site.link('Older')} {site.link('Newer')}</div>"


def _results(site: Site, page: Page) -> str:
    items = "".join(
        f"<div{site.css('item')}>{site.link(page.say(site.words(3, 9)))}<br>{page.say(site.text(1, 2))}<br>"
        f"<small>site.example/{escape(site.words(1))} - {site.rng.randint(2, 90)}k - {site.link('Cached')}</small>"
        f"</div>"
        for _ in range(site.rng.randint(5, 20))
    )
    return f"<p>Results 1 - 10 of about 3,140</p>{items}<p>1 {site.links(3, 8)}</p>"


def _rows(site: Site, page: Page) -> str:
    rows = "".join(
        f"<tr{site.css('item')}><td>{site.link(page.say(site.words(2, 8)))}<br>{page.say(site.text(1, 2))}</td>"
        f"<td>{site.date()}</td><td>{site.price()}</td></tr>"
        for _ in range(site.rng.randint(6, 40))
    )
    head = f"<h1>{page.say(site.words(1, 4))}</h1><p>{site.links(3, 8)}</p>"
    return f"{head}<table><tr><th>Name</th><th>Date</th><th>Price</th></tr>{rows}</table><p>{site.links(2, 5)}</p>"


# Blogs


def _post(site: Site, page: Page, least: int = 3, most: int = 14) -> str:
    return _post_of(site, page.paragraphs(least, most))


def _weblog(site: Site, page: Page) -> str:
    return (
        f"<div>« {site.link(site.words(3, 8))} {site.link(site.words(3, 8))} »</div><div{site.css('post')}><h2>"
        f"{page.say(site.words(3, 10))}</h2><small>{site.date()} by {escape(site.words(1))}</small>{_post(site, page)}"
        f"<p>"
        f"This entry was posted on {site.date()} and is filed under {site.link(site.words(1))}. You can follow any "
        f"responses "
        f"through the {site.link('feed')}.</p></div>{_comments(site)}"
    )


def _breaks(site: Site, page: Page) -> str:
    site.names["way"] = "b"
    return (
        f"<h2 class=date-header><span>{site.date()}</span></h2><div{site.css('post')}><h3>"
        f"{site.link(page.say(site.words(2, 9)))}"
        f"</h3>{_post(site, page, 2, 10)}<div class=post-footer>Posted by {escape(site.words(2))} at "
        f"{site.link('9:41 AM')}<br>"
        f"Labels: {site.link(site.words(1))}, {site.link(site.words(1))}</div></div>{_comments(site)}"
        f"<div>{site.link('Newer Post')} {site.link('Older Post')} {site.link('Home')}</div>"
    )


def _front(site: Site, page: Page) -> str:
    posts = "".join(
        f"<div{site.css('post')}><h2>{site.link(page.say(site.words(2, 9)))}</h2><p{site.css('note')}>{site.date()}</p>"
        f"{_post(site, page, 1, 6)}<p>{site.link('Permalink')} | {site.link('Comments (3)')} | "
        f"{site.link('TrackBack')}</p></div>"
        for _ in range(site.rng.randint(3, 9))
    )
    return f"{posts}<p>{site.link('Older entries')}</p>"


def _static(site: Site, page: Page) -> str:
    parts = "".join(
        f"<h2>{page.say(site.words(1, 5))}</h2>{page.paragraphs(1, 5)}" for _ in range(site.rng.randint(0, 5))
    )
    return (
        f"<article><header><h1>{page.say(site.words(3, 10))}</h1><p{site.css('note')}>{site.date()} · 7 min read · "
        f"{site.link(site.words(1))}</p></header>{page.paragraphs(1, 6)}{parts}<footer><p>Tags: {site.links(1, 4)}</p>"
        f"</footer>"
        f"</article><div>{escape(site.text(1, 2))} {site.link('Follow me')}</div>{_related(site, 'Read next')}"
    )


def _homepage(site: Site, page: Page) -> str:
    return (
        f"<font size=5><b>{page.say(site.words(2, 8))}</b></font><br><i>{site.date()}</i><p>{page.paragraphs(3, 12)}"
        f"<p>{site.link('back')} {site.link('guestbook')}{_comments(site) * (site.rng.random() < 0.3)}"
    )


def _magazine(site: Site, page: Page) -> str:
    share = f"<div class=share>{site.link('Tweet')} {site.link('Share')} {site.link('Email')}</div>"
    return (
        f"<div{site.css('note')}>{site.link(site.words(1))}</div><h1>{page.say(site.words(4, 12))}</h1><h2>"
        f"{page.say(site.sentence())}</h2><div>By {site.link(site.words(2))}, {site.date()}</div>{share}"
        f"{_post(site, page, 2, 7)}{_related(site)}{page.paragraphs(2, 7)}{share}<div><p>{escape(site.text(1, 2))}</p>"
        f"</div>"
        f"{_comments(site)}{_related(site, 'More from us')}"
    )


# News: not judged here, since articles of newspapers are judged by hand


def _teasers_below(site: Site, least: int, most: int) -> str:
    """Other articles' titles and first sentences, more of them at times than there is article."""
    tag = site.names.setdefault("teaser", site.rng.choice(("li", "div", "article", "td")))
    ones = "".join(
        f"<{tag}{site.css('item')}><h4>{site.link(site.words(4, 11))}</h4><p>{escape(site.text(1, 3))}</p>"
        f"<span>{site.date()}</span></{tag}>"
        for _ in range(site.rng.randint(least, most))
    )
    return f"<div{site.css('more')}>{ones}</div>"


def _news(site: Site, page: Page) -> str:
    rng = site.rng
    parts = []
    for _ in range(rng.randint(2, 7)):
        parts.append(page.paragraphs(1, 3))
        caption = f"{escape(site.sentence())} (Image: {escape(site.words(1, 2))})"
        odd = rng.random()
        if odd < 0.3:
            parts.append(f"<figure><img src=x><figcaption>{caption}</figcaption></figure>")
        elif odd < 0.5:
            parts.append(f"<div class=image><img src=x><span>{caption}</span></div>")
        elif odd < 0.7:
            parts.append(
                f"<p>{site.link(rng.choice(('READ MORE: ', 'SEE ALSO: ', '')) + site.words(6, 12).upper())}</p>"
            )
    return (
        f"<h1>{page.say(site.words(4, 12))}</h1><p{site.css('note')}>By {site.link(site.words(2))}, {site.date()}</p>"
        f"{_post_of(site, ''.join(parts))}{_comments(site) * (rng.random() < 0.4)}{_teasers_below(site, 3, 24)}"
    )


def _post_of(site: Site, inner: str) -> str:
    return f"<div{site.css('text')}>{inner}</div>"


class Layout(NamedTuple):
    kind: str
    main: Callable[[Site, Page], str]
    held_out: bool


LAYOUTS = (
    Layout("forum", _board_of_divs, False), Layout("forum", _questions, False), Layout("forum", _list_archive, False),
    Layout("forum", _board_of_tables, True), Layout("forum", _tree, True), Layout("forum", _stream, True),
    Layout("shop", _shop_of_tables, False), Layout("shop", _market, False),
    Layout("shop", _shop_of_tabs, True), Layout("shop", _shop_of_folds, True),
    Layout("listing", _grid, False), Layout("listing", _results, False),
    Layout("listing", _teasers, True), Layout("listing", _rows, True),
    Layout("blog", _weblog, False), Layout("blog", _front, False), Layout("blog", _homepage, False),
    Layout("news", _news, False),
    Layout("blog", _breaks, True), Layout("blog", _static, True), Layout("blog", _magazine, True),
)  # fmt: skip


def pages(layout: Layout, seed: int, prose: list[str]) -> list[dict]:
    """PAGES pages of one site: `kind`, `site`, `held_out`, `html`, and `article`, the main content."""
    name = f"{layout.kind}{layout.main.__name__}-{seed}"
    site = Site(name, prose)
    made = []
    for _ in range(PAGES):
        page = Page(site)
        main = layout.main(site, page)
        bars = [bar(site) for bar in site.bars]
        head = f"<head><title>{escape(page.said[0])}</title></head>"
        html = f"<html>{head}<body>{site.frame(site, main, bars)}</body></html>"
        made.append(
            {
                "kind": layout.kind,
                "site": name,
                "held_out": layout.held_out,
                "html": html,
                "article": "\n".join(page.said),
            }
        )
    return made
