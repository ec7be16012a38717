/*
 * Keeps parts of a page up to date without reloading it:
 *
 *     <div id="queue" data-live="/admin/…/queue" data-live-seconds="3"> what the server knew when the page was made </div>
 *
 * Every so many seconds the address is asked for an HTML fragment, the new content of the element. Only what differs is
 * touched, so focus, scrolling, selected text, open <details> and half-filled fields stay. Rows that move, come and go
 * should have an `id` or `data-key`, or what was in one row is now in another.
 *
 * Nothing is asked while nobody looks at the tab. 204, or `X-Live: done` beside the last content, ends it. After a
 * failure the pauses grow, and a line at the foot of the page says since when there is no news.
 */

const SECONDS = 3;
const LONGEST_PAUSE = 60; // seconds between two tries while the server does not answer
const PATIENCE = 15; // seconds that an answer may take

/** The server said that there is no point in asking again; the message says why. */
class Over extends Error {}

// --- What differs ----------------------------------------------------------------------------------------------------

const keyOf = (node) => node.id || node.dataset?.key || "";

/** A ticked box must never stand for another row than the one it was ticked for. */
const identityOf = (node) => (/^(checkbox|radio)$/.test(node.type) ? node.getAttribute("value") : "");

function alike(one, other) {
  return (
    one.nodeName === other.nodeName &&
    keyOf(one) === keyOf(other) &&
    one.getAttribute?.("name") === other.getAttribute?.("name") &&
    identityOf(one) === identityOf(other)
  );
}

/** What the user has opened or closed is not the server's business. */
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

// --- News ------------------------------------------------------------------------------------------------------------

/** Return {html, done}; html is null when nothing changes any more. Throws Over, or another error when nobody answers. */
async function ask(url) {
  const answer = await fetch(url, {
    mode: "same-origin",
    redirect: "manual",
    cache: "no-store",
    headers: { Accept: "text/html" },
    signal: AbortSignal.timeout(PATIENCE * 1000),
  });
  if (answer.type === "opaqueredirect" || answer.status === 401) throw new Over("You are signed out.");
  if (answer.status === 403) throw new Over("You may no longer see this.");
  if (answer.status === 404 || answer.status === 410) throw new Over("What this page shows is gone.");
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
  const seconds = Number(element.dataset.liveSeconds) || SECONDS;
  let failures = 0;
  let last = null;
  while (element.isConnected) {
    const longer = Math.min(seconds * 2 ** failures, Math.max(seconds, LONGEST_PAUSE));
    await (failures ? Promise.race([pause(longer), events(window, "online")]) : pause(seconds));
    await inSight();
    try {
      const { html, done } = await ask(element.dataset.live);
      if (html !== null && html !== last) show(element, html);
      [last, failures] = [html, 0];
      tell(element, "");
      if (done) return;
    } catch (error) {
      failures += 1;
      tell(element, error instanceof Over ? error.message : "lost");
      if (error instanceof Over) return;
    }
  }
  tell(element, "");
}

// --- What is wrong ---------------------------------------------------------------------------------------------------

const troubles = new Map(); // by element: {message, since}

/** Remember what is wrong with an element's news ("": nothing), and say it once for the whole page. */
function tell(element, message) {
  if ((troubles.get(element)?.message ?? "") === message) return;
  if (message) troubles.set(element, { message, since: new Date() });
  else troubles.delete(element);
  element.classList.toggle("fmv-stale", Boolean(message));
  const [first] = [...troubles.values()].sort((a, b) => (a.message === "lost") - (b.message === "lost"));
  sayAtTheFoot(first);
}

function sayAtTheFoot(trouble) {
  const line = document.querySelector("#fmv-live") ?? addLine();
  line.hidden = !trouble;
  line.textContent = "";
  if (trouble?.message === "lost") {
    line.append(`Connection lost: no news since ${trouble.since.toLocaleTimeString()}. Trying again.`);
  } else if (trouble) {
    const link = document.createElement("a");
    link.href = window.location.href;
    link.textContent = "Load the page again";
    line.append(`${trouble.message} `, link, ".");
  }
}

function addLine() {
  const line = document.createElement("div");
  line.id = "fmv-live";
  line.setAttribute("role", "status"); // screen readers say what it comes to hold
  document.body.append(line);
  return line;
}

for (const element of document.querySelectorAll("[data-live]")) keep(element);
