/* Keeps a double click from sending a form twice, which would retry a task twice. */

const BLOCK_SECONDS = 5; // later, the answer may be lost, and the user may send the form again

const sent = new WeakMap(); // by form: when it was sent, in milliseconds since the page was opened

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (event.timeStamp - (sent.get(form) ?? -Infinity) < BLOCK_SECONDS * 1000) event.preventDefault();
  else sent.set(form, event.timeStamp);
});
