/*
 * Refreshes parts of a page without reloading it:
 *
 *     <div id="queue" data-live="/admin/…/queue" data-live-seconds="3"> the first content </div>
 *
 * The URL returns an HTML fragment, the new content of the element, and is requested every `data-live-seconds`. Only
 * nodes that differ are changed, so focus, scroll position, selected text, open <details> and half-filled fields stay.
 * Rows that move, come and go need an `id` or `data-key`, so that each stays the same element.
 *
 * A hidden tab is not refreshed. Status 204, or the header `X-Live: done` with the last content, ends the refreshing.
 * After a failure the pauses grow, and a line at the foot of the page says since when the connection is lost.
 */

const DEFAULT_SECONDS = 3;
const MAX_PAUSE = 60; // seconds between two attempts while the server does not answer
const TIMEOUT = 15; // seconds

/** Refreshing has ended for good; the message says why. */
class Over extends Error {}

// --- Changing what differs ------------------------------------------------------------------------------------------

const keyOf = (node) => node.id || node.dataset?.key || "";

/** A ticked checkbox must not become the checkbox of another row. */
const identityOf = (node) => (/^(checkbox|radio)$/.test(node.type) ? node.getAttribute("value") : "");

function alike(one, other) {
  return (
    one.nodeName === other.nodeName &&
    keyOf(one) === keyOf(other) &&
    one.getAttribute?.("name") === other.getAttribute?.("name") &&
    identityOf(one) === identityOf(other)
  );
}

/** The user, not the server, decides what is open. */
const isTheUsers = (element, attribute) => attribute === "open" && /^(DETAILS|DIALOG)$/.test(element.nodeName);

function updateAttributes(element, wanted) {
  for (const { name } of [...element.attributes]) {
    if (!wanted.hasAttribute(name) && !isTheUsers(element, name)) element.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (element.getAttribute(name) !== value && !isTheUsers(element, name)) element.setAttribute(name, value);
  }
}

function updateChildren(parent, wantedParent) {
  const keyed = new Map([...parent.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let next = parent.firstChild;
  for (const wanted of [...wantedParent.childNodes]) {
    const known = keyed.get(keyOf(wanted)) ?? next;
    if (!known || !alike(known, wanted)) {
      parent.insertBefore(wanted, next);
      continue;
    }
    keyed.delete(keyOf(known));
    if (known === next) next = next.nextSibling;
    else parent.insertBefore(known, next);
    update(known, wanted);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

function update(node, wanted) {
  if (node.isEqualNode(wanted)) return;
  if (node.nodeType === Node.ELEMENT_NODE) {
    updateAttributes(node, wanted);
    updateChildren(node, wanted);
  } else {
    node.data = wanted.data;
  }
}

function show(element, html) {
  const focused = document.activeElement;
  const template = document.createElement("template");
  template.innerHTML = html;
  updateChildren(element, template.content);
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

// --- Refreshing -----------------------------------------------------------------------------------------------------

/** Return {html, done}; html is null if nothing changes any more. Throws Over, or another error without an answer. */
async function ask(url) {
  const answer = await fetch(url, {
    mode: "same-origin",
    redirect: "manual",
    cache: "no-store",
    headers: { Accept: "text/html" },
    signal: AbortSignal.timeout(TIMEOUT * 1000),
  });
  if (answer.type === "opaqueredirect" || answer.status === 401) throw new Over("You are signed out.");
  if (answer.status === 403) throw new Over("You are no longer allowed to see this.");
  if (answer.status === 404 || answer.status === 410) throw new Over("This object no longer exists.");
  if (answer.status === 204) return { html: null, done: true };
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  return { html: await answer.text(), done: answer.headers.get("X-Live") === "done" };
}

const events = (target, ...names) =>
  new Promise((happened) => names.forEach((name) => target.addEventListener(name, happened, { once: true })));

const pause = (seconds) => new Promise((over) => setTimeout(over, seconds * 1000));

async function inSight() {
  while (document.hidden) await events(document, "visibilitychange");
}

async function keep(element) {
  const seconds = Number(element.dataset.liveSeconds) || DEFAULT_SECONDS;
  let failures = 0;
  let last = null;
  while (element.isConnected) {
    const longer = Math.min(seconds * 2 ** failures, Math.max(seconds, MAX_PAUSE));
    await (failures ? Promise.race([pause(longer), events(window, "online")]) : pause(seconds));
    await inSight();
    try {
      const { html, done } = await ask(element.dataset.live);
      if (html !== null && html !== last) show(element, html);
      [last, failures] = [html, 0];
      setProblem(element, "");
      if (done) return;
    } catch (error) {
      failures += 1;
      setProblem(element, error instanceof Over ? error.message : "lost");
      if (error instanceof Over) return;
    }
  }
  setProblem(element, "");
}

// --- Showing problems -----------------------------------------------------------------------------------------------

const problems = new Map(); // by element: {message, since}

/** Set an element's problem ("": none), and show one problem for the whole page. */
function setProblem(element, message) {
  if ((problems.get(element)?.message ?? "") === message) return;
  if (message) problems.set(element, { message, since: new Date() });
  else problems.delete(element);
  element.classList.toggle("fmv-stale", Boolean(message));
  const [first] = [...problems.values()].sort((a, b) => (a.message === "lost") - (b.message === "lost"));
  showProblem(first);
}

function showProblem(problem) {
  const line = document.querySelector("#fmv-live") ?? addLine();
  line.hidden = !problem;
  line.textContent = "";
  if (problem?.message === "lost") {
    line.append(`Connection lost since ${problem.since.toLocaleTimeString()}. Trying again.`);
  } else if (problem) {
    const link = document.createElement("a");
    link.href = window.location.href;
    link.textContent = "Reload the page";
    line.append(`${problem.message} `, link, ".");
  }
}

function addLine() {
  const line = document.createElement("div");
  line.id = "fmv-live";
  line.setAttribute("role", "status"); // screen readers announce its text
  document.body.append(line);
  return line;
}

for (const element of document.querySelectorAll("[data-live]")) keep(element);
