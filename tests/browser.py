"""A page in a real browser: what it says, what it asks for, and what its figures hold."""


def opened(browser, path, said, **options):
    """The page, once its figures are drawn; `said` gets its errors and everything that it asks the network for."""
    view = browser.new_page(**options)
    view.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    view.goto(f"file://{path}")
    view.wait_for_selector("html[data-drawn=yes]")
    return view


def models(view, kind, field):
    """A field of every Bokeh model of a kind. The page's policy allows no eval, so this goes through the debugger."""
    every = "[...Bokeh.documents[0]._all_models.values()]"
    return view.evaluate(f"([kind, field]) => {every}.filter(m => m.type == kind).map(m => m[field])", [kind, field])
