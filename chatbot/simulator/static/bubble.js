// One message as DOM nodes. In comes a message as the server tells it, out goes its bubble,
// filled. Whatever a person or the business wrote only becomes text nodes and values of
// attributes that run nothing.

import { element, formatted, onlyEmoji } from "./format.js";

const NAMELESS = { image: "Imagem", sticker: "Figurinha", location: "Localização", document: "Documento" };
const hour = new Intl.DateTimeFormat("pt-BR", { hour: "2-digit", minute: "2-digit" });

// What a message says in one line: for a quote, and for who cannot see it.
export function preview({ type, text, content, revoked }) {
  if (revoked) return "Mensagem apagada";
  if (type === "audio") return content.file.voice ? "Mensagem de voz" : "Áudio";
  if (type === "contacts") return `Contato: ${content.name}`;
  if (type === "location") return content.name || NAMELESS.location;
  if (type in NAMELESS) return content.caption || content.file.filename || NAMELESS[type];
  return formatted(text).textContent;
}

// What the person wrote or sent, before the server tells it back.
export function shown({ text, media, location, contact, choice, quotes = "" }) {
  if (location) return { type: "location", content: location, quotes, text };
  if (contact) return { type: "contacts", content: contact, quotes, text };
  if (!media) return { type: "text", content: { choice }, quotes, text };
  return { type: media.kind, content: { file: media, caption: text }, quotes, text };
}

// The other way round: what is said again where only the server's message is left.
export async function again(base, { id, type, text, content, quotes }) {
  const said = { id, text, quotes };
  if (type === "location") return { ...said, text: "", location: content };
  if (type === "contacts") return { ...said, text: "", contact: content };
  if (type === "text") return { ...said, choice: content.choice };
  const answer = await fetch(source(base, content.file));
  if (!answer.ok) throw new Error("O arquivo não está mais na memória do servidor.");
  const data = await base64(await answer.blob());
  return { ...said, text: content.caption, media: { ...content.file, kind: type, data } };
}

export function fill(bubble, message, base) {
  const { type, content, revoked } = message;
  const text = revoked ? "" : "caption" in content ? content.caption : type === "text" ? message.text : "";
  bubble.dataset.type = type;
  bubble.classList.toggle("revoked", Boolean(revoked));
  bubble.classList.toggle("emoji", onlyEmoji(text) && type === "text" && !message.options?.length && !message.quotes);
  bubble.querySelector(".content").replaceChildren(...(revoked ? [] : drawn(type, content, base)));
  bubble.querySelector(".text").replaceChildren(revoked ? "Você apagou esta mensagem" : formatted(text));
  bubble.querySelector(".edited").hidden = !message.edited || revoked;
  const reaction = bubble.querySelector(".reaction");
  reaction.hidden = !message.reaction;
  reaction.querySelector(".emoji").textContent = message.reaction ?? "";
  const written = new Date(message.time * 1000);
  const time = bubble.querySelector("time");
  time.textContent = hour.format(written);
  time.dateTime = written.toISOString();
  if (revoked) bubble.querySelector(".quoted").hidden = true;
}

function drawn(type, content, base) {
  if (type === "image" || type === "sticker") return [picture(type, content, base)];
  if (type === "audio") return [player(content, base)];
  if (type === "document") return [paper(content, base)];
  if (type === "location") return [place(content)];
  if (type === "contacts") return [card(content)];
  return [];
}

function picture(type, { file, caption }, base) {
  const image = element("img");
  image.alt = caption ? `${NAMELESS[type]}: ${caption}` : NAMELESS[type];
  image.src = source(base, file);
  const frame = element(file.data ? "span" : "a", "picture");
  if (!file.data) opens(frame, source(base, file), `Abrir ${NAMELESS[type].toLowerCase()}`);
  image.addEventListener("error", () => frame.replaceWith(element("span", "gone", `${NAMELESS[type]} que não pode ser mostrada`)));
  frame.append(image);
  return frame;
}

function player({ file }, base) {
  const audio = element("audio");
  audio.controls = true;
  audio.preload = "metadata";
  audio.setAttribute("aria-label", file.voice ? "Mensagem de voz" : "Áudio");
  audio.addEventListener("error", () => audio.replaceWith(element("span", "gone", "Áudio que não pode ser tocado")));
  audio.src = source(base, file);
  return audio;
}

function paper({ file }, base) {
  const box = boxed("paper", file.filename || NAMELESS.document, [`${Math.ceil(file.size / 1024)} KB · ${file.mime_type}`]);
  if (file.data) return box;
  const link = element("a", "card");
  opens(link, source(base, file), `Baixar ${file.filename || NAMELESS.document}`);
  link.download = file.filename;
  link.append(...box.childNodes);
  return link;
}

const place = ({ name, address, latitude, longitude }) =>
  boxed("pin", name || NAMELESS.location, [address, `${latitude}, ${longitude}`]);

const card = ({ name, phone }) => boxed("person", name, [phone]);

function boxed(icon, title, lines) {
  const box = element("span", "card");
  const words = element("span", "words");
  words.append(element("strong", "", title), ...lines.filter(Boolean).map((line) => element("span", "", line)));
  box.append(symbol(icon), words);
  return box;
}

export function symbol(name) {
  return document.getElementById("symbols").content.querySelector(`[data-symbol=${name}]`).cloneNode(true);
}

function opens(link, href, label) {
  link.href = href;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.setAttribute("aria-label", label);
}

const source = (base, file) =>
  file.data ? `data:${file.mime_type};base64,${file.data}` : `${base}/files/${encodeURIComponent(file.id)}`;

export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
