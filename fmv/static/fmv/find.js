/* The key / leads to the search box of the header, unless something is being typed. */

const box = document.querySelector("#fmv-find input");
const isTyping = (element) => element?.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element?.nodeName ?? "");

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  event.preventDefault();
  box?.focus();
  box?.select();
});
