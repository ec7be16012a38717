/* Sends a form as soon as its file is chosen: <form data-upload="most bytes"> … <input type="file"> … */

for (const form of document.querySelectorAll("form[data-upload]")) {
  const input = form.querySelector("input[type=file]");
  input.addEventListener("change", () => {
    const [file] = input.files;
    const most = Number(form.dataset.upload);
    const large = file && file.size > most;
    input.setCustomValidity(large ? `The file has ${Math.ceil(file.size / 1024)} KB; at most ${most / 1024} KB.` : "");
    if (file) form.requestSubmit();
  });
}
