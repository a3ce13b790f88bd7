// One person's phone. In come the server's messages and what the person does, out goes what
// they write, by way of the outbox. Promise: nothing typed or sent is lost while the server
// is away.

import { openActions } from "./actions.js";
import { openAttachments } from "./attachments.js";
import { again, fill, preview, shown } from "./bubble.js";
import { element } from "./format.js";
import { Outbox } from "./outbox.js";

const TICKS = {
  clock: "enviando", unsent: "não enviada", sent: "enviada", delivered: "entregue", read: "lida", failed: "não entregue",
};
const DRAWN = { read: "delivered", unsent: "clock" };
const NEAR_THE_END = 80;
const UNARRIVED = '[data-state="clock"], [data-state="unsent"], [data-state="failed"]';
const AWAY = "Sem servidor: vai quando ele voltar.";

const day = new Intl.DateTimeFormat("pt-BR", { day: "numeric", month: "long", year: "numeric" });
let latest = 0; // when the last message was written: no two at the same time

export const copy = (id) => document.getElementById(id).content.cloneNode(true);

export class Phone {
  // `desk` has `base`, `shows(phone)`, `activate(user)` and `remove(phone)`.
  constructor({ user, name }, { desk, color, fixed }) {
    Object.assign(this, { user, name, desk, messages: new Map(), bubbles: new Map(), unseen: 0 });
    Object.assign(this, { typingTimer: 0, lastDay: "", online: false, sticks: true, quoted: null, edited: null });
    this.section = copy("phone").firstElementChild;
    this.tab = copy("tab").firstElementChild;
    for (const part of ["log", "typing", "presence", "composer", "down", "banner", "notice"])
      this[part] = this.find(`.${part}`);
    this.list = this.find(".bubbles");
    this.input = this.find("textarea");
    this.button = this.find(".send");
    this.outbox = new Outbox({ base: desk.base, user, name, settled: (said, state) => this.settled(said, state) });
    this.dress(color, fixed);
    this.listen();
    this.write(this.outbox.draft);
  }

  find(selector) {
    return this.section.querySelector(selector);
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
    this.list.addEventListener("focusin", ({ target }) => target.matches(".act") && this.rove(target));
    this.list.addEventListener("keydown", (event) => this.step(event));
    this.log.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.down.addEventListener("click", () => this.toEnd("smooth"));
    this.find(".remove").addEventListener("click", () => this.desk.remove(this));
    this.tab.addEventListener("click", () => this.desk.activate(this.user));
    const grown = new ResizeObserver(() => this.sticks && this.toEnd());
    grown.observe(this.log);
    grown.observe(this.list); // a picture that has loaded makes it longer
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

  // What is shown

  load({ messages, typing }) {
    this.clear();
    for (const message of messages) this.put(message);
    this.showWaiting();
    if (typing > 0) this.startTyping(typing);
    this.unseen = 0;
    this.toEnd();
  }

  clear() {
    this.messages.clear();
    this.bubbles.clear();
    this.list.replaceChildren();
    this.lastDay = "";
    this.stopTyping();
  }

  showWaiting() {
    for (const said of this.outbox.waiting)
      if (changes(said)) this.tell(AWAY);
      else if (!this.bubbles.has(said.id)) this.put(this.mine(said, "unsent"));
  }

  put(message) {
    if (message.side === "in") this.stopTyping();
    if (this.bubbles.has(message.id)) {
      this.refresh(message);
      return this.setState(message.id, message.state);
    }
    const bubble = copy("bubble").firstElementChild;
    this.messages.set(message.id, message);
    this.bubbles.set(message.id, bubble);
    bubble.classList.add(message.side);
    bubble.dataset.id = message.id;
    bubble.querySelector(".author").textContent = `${this.author(message)}: `;
    this.cite(bubble, message.quotes);
    fill(bubble, message, this.desk.base);
    this.offer(bubble, message);
    this.attend(bubble, message.id);
    this.separate(new Date(message.time * 1000));
    const before = this.list.lastElementChild;
    bubble.classList.toggle("first", !before?.classList.contains(message.side));
    this.list.append(bubble);
    if (message.side === "out") this.setState(message.id, message.state);
    else this.rove();
    this.arrived(message.side);
  }

  refresh(message) {
    const known = this.messages.get(message.id);
    if (!known) return;
    this.messages.set(message.id, { ...message, said: message.said ?? known.said });
    fill(this.bubbles.get(message.id), message, this.desk.base);
    if (message.revoked) this.rove();
  }

  author(message) {
    return message.side === "out" ? this.name : "Assistente";
  }

  cite(bubble, id) {
    if (!id) return;
    const original = this.messages.get(id);
    const quoted = bubble.querySelector(".quoted");
    quoted.querySelector("strong").textContent = original ? this.author(original) : "";
    quoted.querySelector(".said").textContent = original ? preview(original) : "Mensagem que não está mais aqui";
    quoted.addEventListener("click", () => {
      this.bubbles.get(id)?.scrollIntoView({ block: "center", behavior: "smooth" });
      this.bubbles.get(id)?.querySelector(".act").focus({ preventScroll: true });
    });
    quoted.hidden = false;
  }

  attend(bubble, id) {
    const act = bubble.querySelector(".act");
    act.addEventListener("click", () => openActions(this, this.messages.get(id), act));
    bubble.querySelector(".reaction").addEventListener("click", () => {
      this.react(this.messages.get(id), this.messages.get(id).reaction);
    });
    bubble.querySelector(".retry").addEventListener("click", () => this.sayAgain(id));
  }

  // One stop of the Tab key for all bubbles: the arrow keys lead from one to the next.
  rove(act = this.acts.at(-1)) {
    if (this.roving) this.roving.tabIndex = -1;
    this.roving = act;
    if (act) act.tabIndex = 0;
  }

  // Nothing can be done with what was deleted, or has not arrived.
  get acts() {
    return [...this.list.querySelectorAll(`.bubble:not(.revoked, ${UNARRIVED}) > .act`)];
  }

  step(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step || !event.target.matches(".act")) return;
    event.preventDefault();
    const { acts } = this;
    acts[acts.indexOf(event.target) + step]?.focus();
  }

  offer(bubble, { id, options = [], menu }) {
    if (!options.length) return;
    const list = element("div", "choices");
    if (menu) list.append(element("span", "menu", menu));
    for (const { title, description } of options) {
      const button = element("button");
      button.type = "button";
      button.append(element("span", "label", title));
      if (description) button.append(element("span", "description", description));
      button.addEventListener("click", () => this.send({ text: title, choice: true, quotes: id }));
      list.append(button);
    }
    bubble.append(list);
  }

  separate(written) {
    const name = dayName(written);
    if (name === this.lastDay) return;
    this.lastDay = name;
    this.list.append(element("p", "day", name));
  }

  setState(id, state) {
    const bubble = this.bubbles.get(id);
    if (!bubble?.classList.contains("out") || bubble.dataset.state === "read") return;
    bubble.dataset.state = state;
    const ticks = bubble.querySelector(".ticks");
    const drawn = document.getElementById("ticks").content.querySelector(`[data-state=${DRAWN[state] ?? state}]`);
    ticks.replaceChildren(drawn.cloneNode(true));
    ticks.setAttribute("aria-label", TICKS[state]);
    ticks.hidden = false;
    bubble.querySelector(".retry").hidden = state !== "failed";
    bubble.querySelector(".unsent").hidden = state !== "unsent";
    this.rove();
    if (this.sticks) this.toEnd();
  }

  arrived(side) {
    if (this.sticks && this.desk.shows(this)) return this.toEnd();
    if (side === "in") this.unseen += 1;
    this.count();
  }

  count() {
    for (const badge of [this.down.querySelector(".count"), this.tab.querySelector(".count")]) {
      badge.textContent = this.unseen;
      badge.hidden = !this.unseen;
    }
    this.down.hidden = this.sticks;
  }

  scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    if (!clientHeight) return;
    this.sticks = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
    if (this.sticks) this.unseen = 0;
    this.count();
  }

  toEnd(behavior = "instant") {
    this.sticks = true;
    this.log.scrollTo({ top: this.log.scrollHeight, behavior });
    if (this.desk.shows(this)) this.unseen = 0;
    this.count();
  }

  // What the header says

  setOnline(online) {
    this.online = online;
    this.showPresence();
    if (online) this.outbox.flush();
  }

  startTyping(seconds) {
    clearTimeout(this.typingTimer);
    this.typingTimer = setTimeout(() => this.stopTyping(), seconds * 1000);
    this.typing.hidden = false;
    this.showPresence();
    if (this.sticks) this.toEnd();
  }

  stopTyping() {
    clearTimeout(this.typingTimer);
    this.typing.hidden = true;
    this.showPresence();
  }

  showPresence() {
    this.presence.textContent = !this.online ? "conectando…" : this.typing.hidden ? "online" : "digitando…";
    this.presence.classList.toggle("busy", this.online && !this.typing.hidden);
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

function dayName(date) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  return days === 0 ? "Hoje" : days === 1 ? "Ontem" : day.format(date);
}
