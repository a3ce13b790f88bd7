// One person's phone. In come the server's messages and what the person does, out goes what
// they write, by way of the outbox. Promise: nothing typed or sent is lost while the server
// is away.

import { openAttachments } from "./attachments.js";
import { again, preview, shown } from "./bubble.js";
import { Conversation } from "./conversation.js";
import { Outbox } from "./outbox.js";

const AWAY = "Sem servidor: vai quando ele voltar.";

let latest = 0; // when the last message was written: no two at the same time

export class Phone extends Conversation {
  // `desk` has `base`, `shows(phone)`, `activate(user)` and `remove(phone)`.
  constructor({ user, name }, { desk, color, fixed }) {
    super({ user, name }, desk);
    Object.assign(this, { quoted: null, edited: null });
    for (const part of ["composer", "banner", "notice"]) this[part] = this.find(`.${part}`);
    this.input = this.find("textarea");
    this.button = this.find(".send");
    this.outbox = new Outbox({ base: desk.base, user, name, settled: (said, state) => this.settled(said, state) });
    this.dress(color, fixed);
    this.listen();
    this.write(this.outbox.draft);
  }

  dress(color, fixed) {
    const { section, tab, user, name } = this;
    section.dataset.phone = user;
    section.id = `phone-${user}`;
    section.setAttribute("aria-labelledby", `owner-${user}`);
    this.find("h2").id = `owner-${user}`;
    this.find("h2").textContent = name;
    this.find(".number").textContent = readable(user);
    this.log.setAttribute("aria-label", `Conversa de ${name} com o assistente`);
    this.input.setAttribute("aria-label", `Mensagem de ${name}`);
    const remove = this.find(".remove");
    remove.hidden = fixed;
    remove.setAttribute("aria-label", `Tirar o celular de ${name} da mesa`);
    tab.id = `tab-${user}`;
    tab.setAttribute("aria-controls", section.id);
    tab.querySelector(".name").textContent = name;
    for (const initial of [this.find(".initial"), tab.querySelector(".initial")]) {
      initial.textContent = name.slice(0, 1);
      initial.style.backgroundColor = color;
    }
  }

  listen() {
    this.composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.settle();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.submit();
    });
    this.input.addEventListener("input", () => this.typed());
    const attach = this.find(".attach");
    attach.addEventListener("click", () => openAttachments(this, attach));
    this.banner.querySelector("button").addEventListener("click", () => this.settle());
    this.find(".remove").addEventListener("click", () => this.desk.remove(this));
    this.tab.addEventListener("click", () => this.desk.activate(this.user));
  }

  // What the person writes

  submit() {
    const text = this.input.value.trim();
    if (!text) return;
    if (this.edited) {
      this.change({ edits: this.edited.id, text });
      this.settle();
    } else this.send({ text: this.take() });
    this.input.focus();
  }

  typed() {
    if (!this.edited) this.outbox.draft = this.input.value;
    this.fit();
  }

  write(text) {
    this.input.value = text;
    this.fit();
  }

  // Return what is written, for whoever sends it now.
  take() {
    if (this.edited) return "";
    const text = this.input.value.trim();
    this.outbox.draft = "";
    this.write("");
    return text;
  }

  // Send a message, in answer to the one that is quoted.
  send(said) {
    const quotes = this.quoted?.id ?? "";
    if (this.quoted) this.settle();
    this.say({ quotes, ...said, id: newId() });
  }

  say(said) {
    const time = (latest = Math.max(Date.now(), latest + 1));
    said = { ...said, time };
    this.sticks = true;
    this.tell("");
    this.put(this.mine(said, "clock"));
    this.outbox.add(said);
  }

  mine(said, state) {
    return { id: said.id, side: "out", time: said.time / 1000, state, said, ...shown(said) };
  }

  // A change of another message has no bubble: what becomes of it is told below.
  change(change) {
    const time = (latest = Math.max(Date.now(), latest + 1));
    this.outbox.add({ ...change, id: newId(), time });
  }

  settled(said, state) {
    if (!changes(said)) this.setState(said.id, state);
    else if (state !== "clock") this.tell({ unsent: AWAY, failed: "Não foi entregue. Tente de novo." }[state] ?? "");
  }

  async sayAgain(id) {
    const message = this.messages.get(id);
    try {
      this.say(message.said ?? (await again(this.desk.base, message)));
    } catch (error) {
      this.tell(error.message);
    }
  }

  react(message, emoji) {
    this.change({ reacts_to: message.id, text: message.reaction === emoji ? "" : emoji });
  }

  quote(message) {
    this.settle();
    this.quoted = message;
    this.announce(`Resposta a ${this.author(message)}`, preview(message));
  }

  edit(message) {
    this.settle();
    this.edited = message;
    this.announce("Editar mensagem", preview(message));
    this.write("caption" in message.content ? message.content.caption : message.text);
  }

  // Quote and edit no more; what was written before is there again.
  settle() {
    this.quoted = null;
    this.banner.hidden = true;
    if (!this.edited) return;
    this.edited = null;
    this.write(this.outbox.draft);
  }

  announce(what, text) {
    this.banner.querySelector("strong").textContent = what;
    this.banner.querySelector(".said").textContent = text;
    this.banner.hidden = false;
    this.input.focus();
  }

  tell(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, 120)}px`;
    this.button.disabled = !this.input.value.trim();
  }

  // What the server tells

  load({ messages, typing }) {
    this.clear();
    for (const message of messages) this.put(message);
    this.showWaiting();
    if (typing > 0) this.startTyping(typing);
    this.unseen = 0;
    this.toEnd();
  }

  showWaiting() {
    for (const said of this.outbox.waiting)
      if (changes(said)) this.tell(AWAY);
      else if (!this.bubbles.has(said.id)) this.put(this.mine(said, "unsent"));
  }

  setOnline(online) {
    this.online = online;
    this.showPresence();
    if (online) this.outbox.flush();
  }
}

const changes = (said) => Boolean(said.reacts_to || said.edits || said.revokes);

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return `wamid.${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_")}`;
}

function readable(user) {
  const parts = /^55(\d\d)(\d{4,5})(\d{4})$/.exec(user);
  return parts ? `+55 ${parts[1]} ${parts[2]}-${parts[3]}` : user;
}
