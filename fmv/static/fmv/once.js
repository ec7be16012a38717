/* Lets nobody send a form twice by a double click: a task would be retried twice. */

const SECONDS = 5; // then the answer may be lost, and who sends it again means it

const sent = new WeakMap(); // by form: when, in milliseconds since the page was opened

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (event.timeStamp - (sent.get(form) ?? -Infinity) < SECONDS * 1000) event.preventDefault();
  else sent.set(form, event.timeStamp);
});
