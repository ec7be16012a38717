"""How many clicks a job takes a person: clicks on links, buttons and fields of all the pages on the way. The Enter key,
for which a browser clicks a button, is none.
"""

COUNT = """addEventListener("click", (event) => {
  if (event.isTrusted && event.detail) sessionStorage.setItem("clicks", Number(sessionStorage.getItem("clicks")) + 1);
}, true)"""


def count_clicks(page) -> None:
    """Count the clicks on the pages that this one loads from now on."""
    page.add_init_script(COUNT)


def clicks(page) -> int:
    """Return how many there were."""
    return page.evaluate("Number(sessionStorage.getItem('clicks'))")
