/*
 * Fetches the file of a link with `data-export`, shows how many of its rows have come, and saves it:
 *
 *     <div class="fmv-export"> <a href="…" data-export="csv"> … <p class="fmv-export-state" role="status"></p> </div>
 *
 * The answer's `X-Rows` is the number of rows, or "10000+" where counting stopped. Without this script, and with a key
 * held that opens another tab, the browser downloads the file.
 */

const BLOB_BYTES = 4 * 1024 * 1024; // so many are given to the browser at a time, which may keep them on the disk
const LF = 10;
const CR = 13;

/** Counts the lines of a file that comes in chunks. In CSV a line ends with CR LF; a cell may hold a single LF. */
function lineCounter(form) {
  let lines = form === "csv" ? -1 : 0; // the line of column names
  let before = 0;
  return (chunk) => {
    for (const byte of chunk) {
      if (byte === LF && (form !== "csv" || before === CR)) lines += 1;
      before = byte;
    }
    return Math.max(lines, 0);
  };
}

function nameOf(answer) {
  const [, plain] = /filename="?([^";]+)"?/.exec(answer.headers.get("Content-Disposition") ?? "") ?? [];
  return plain ?? "rows";
}

const words = (rows) => `${rows.toLocaleString("en")} row${rows === 1 ? "" : "s"}`;

/** Show a bar, a text and a button in the element; return {say, end}. */
function shown(element, cancel) {
  const bar = document.createElement("progress");
  const text = document.createElement("span");
  const button = document.createElement("button");
  bar.setAttribute("aria-label", "Rows that have come");
  button.type = "button";
  button.className = "fmv-button fmv-button-quiet";
  button.textContent = "Cancel";
  button.addEventListener("click", cancel);
  element.replaceChildren(bar, " ", button, " ", text); // the text, which grows, last: it would move the button away
  return {
    say(rows, of) {
      if (of) [bar.max, bar.value] = [Math.max(of, rows), rows];
      text.textContent = of ? `${words(rows)} of ${of.toLocaleString("en")}` : words(rows);
    },
    end: (message) => element.replaceChildren(message),
  };
}

async function take(link, state) {
  const controller = new AbortController();
  const view = shown(state, () => controller.abort());
  const count = lineCounter(link.dataset.export);
  const blobs = [];
  let rows = 0;
  view.say(0, 0);
  try {
    const answer = await fetch(link.href, { redirect: "manual", cache: "no-store", signal: controller.signal });
    if (!answer.ok) {
      window.location.assign(link.href); // the page says what is wrong, or asks for a sign-in
      return;
    }
    const of = /^\d+$/.test(answer.headers.get("X-Rows")) ? Number(answer.headers.get("X-Rows")) : 0;
    let [chunks, bytes] = [[], 0];
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      rows = count(value);
      chunks.push(value);
      bytes += value.length;
      if (bytes > BLOB_BYTES) {
        blobs.push(new Blob(chunks));
        [chunks, bytes] = [[], 0];
      }
      view.say(rows, of);
    }
    save(new Blob([...blobs, ...chunks], { type: answer.headers.get("Content-Type") }), nameOf(answer));
    view.end(`${words(rows)} saved as ${nameOf(answer)}.`);
  } catch {
    view.end(
      controller.signal.aborted
        ? `Cancelled after ${words(rows)}; nothing was saved.`
        : `The connection broke off after ${words(rows)}; nothing was saved. Try again.`,
    );
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

for (const part of document.querySelectorAll(".fmv-export")) {
  const state = part.querySelector(".fmv-export-state");
  let isBusy = false;
  part.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-export]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (isBusy) return;
    isBusy = true;
    await take(link, state);
    isBusy = false;
  });
}
