/* Says that a chosen file is too large before it is sent: <input type="file" data-max-bytes="1048576">. */

for (const field of document.querySelectorAll("input[type=file][data-max-bytes]")) {
  const most = Number(field.dataset.maxBytes);
  field.addEventListener("change", () => {
    const size = field.files[0]?.size ?? 0;
    const text = (bytes) => `${bytes.toLocaleString("en")} bytes`;
    field.setCustomValidity(size > most ? `The file has ${text(size)}. At most ${text(most)} are allowed.` : "");
    field.reportValidity();
  });
}
