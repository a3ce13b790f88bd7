// Everything that is sent besides text: files of four kinds, places and cards. In comes a
// choice in the panel, out goes what `say` posts. One panel and two forms serve all phones.

import { base64 } from "./bubble.js";

const MB = 1024 * 1024;
const KINDS = {
  image: { accept: "image/jpeg,image/png,image/webp", largest: 5 * MB },
  audio: { accept: "audio/*", largest: 16 * MB },
  document: { accept: "", largest: 16 * MB },
  sticker: { accept: "image/*", largest: 500 * 1024 },
};
const STICKER = 512; // pixels each way, as WhatsApp wants them

const panel = document.getElementById("attach");
const picker = document.getElementById("picker");
let phone = null; // whose attachment it is

export function openAttachments(whose, button) {
  phone = whose;
  popUp(panel, button);
}

// Show a panel at its button, within the window; Escape and a click elsewhere close it.
export function popUp(popover, button) {
  popover.showPopover();
  const at = button.getBoundingClientRect();
  const { width, height } = popover.getBoundingClientRect();
  const above = at.top - height - 6;
  popover.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  popover.style.top = `${above < 8 ? Math.min(at.bottom + 6, innerHeight - height - 8) : above}px`;
  popover.querySelector("button:not([hidden])").focus();
}

for (const button of panel.querySelectorAll("[data-kind]"))
  button.addEventListener("click", () => {
    panel.hidePopover();
    picker.dataset.kind = button.dataset.kind;
    picker.accept = KINDS[button.dataset.kind].accept;
    picker.click();
  });

picker.addEventListener("change", async () => {
  const [file] = picker.files;
  const { kind } = picker.dataset;
  const whose = phone;
  picker.value = "";
  if (!file) return;
  try {
    const media = await read(file, kind);
    const captioned = kind === "image" || kind === "document";
    whose.send({ text: captioned ? whose.take() : "", media });
  } catch (error) {
    whose.tell(error.message);
  }
});

async function read(file, kind) {
  const blob = kind === "sticker" ? await sticker(file) : file;
  const { largest } = KINDS[kind];
  if (blob.size > largest) throw new Error(`Grande demais: no máximo ${Math.round(largest / 1024)} KB.`);
  if (!blob.size) throw new Error("O arquivo está vazio.");
  return {
    kind,
    mime_type: blob.type || "application/octet-stream",
    filename: kind === "document" ? file.name : "",
    size: blob.size,
    voice: kind === "audio",
    data: await base64(blob),
  };
}

// Any picture becomes a sticker; a WebP that fits stays as it is, for it may move.
async function sticker(file) {
  if (file.type === "image/webp" && file.size <= KINDS.sticker.largest) return file;
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) throw new Error("Este arquivo não é uma imagem.");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = STICKER;
  const scale = STICKER / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  canvas.getContext("2d").drawImage(picture, (STICKER - width) / 2, (STICKER - height) / 2, width, height);
  const made = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
  if (made?.type !== "image/webp") throw new Error("Este navegador não faz figurinhas (WebP).");
  return made;
}

for (const name of ["location", "contact"]) {
  const dialog = document.getElementById(name);
  panel.querySelector(`[data-form=${name}]`).addEventListener("click", () => {
    panel.hidePopover();
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    phone.input.focus();
    if (dialog.returnValue !== "send") return;
    const given = Object.fromEntries(new FormData(dialog.querySelector("form")));
    for (const degrees of ["latitude", "longitude"]) if (degrees in given) given[degrees] = Number(given[degrees]);
    phone.send({ text: "", [name]: given });
  });
}
