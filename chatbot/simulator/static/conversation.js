// What one phone shows: the bubbles, who is typing, how many came unseen. In come messages and
// states, out goes what is done to a bubble, which `phone.js` does.

import { openActions } from "./actions.js";
import { fill, preview } from "./bubble.js";
import { element } from "./format.js";

const TICKS = {
  clock: "enviando", unsent: "não enviada", sent: "enviada", delivered: "entregue", read: "lida", failed: "não entregue",
};
const DRAWN = { read: "delivered", unsent: "clock" };
const NEAR_THE_END = 80;
const UNARRIVED = '[data-state="clock"], [data-state="unsent"], [data-state="failed"]';

const day = new Intl.DateTimeFormat("pt-BR", { day: "numeric", month: "long", year: "numeric" });

export const copy = (id) => document.getElementById(id).content.cloneNode(true);

export class Conversation {
  // `desk` has `base` and `shows(phone)`.
  constructor({ user, name }, desk) {
    Object.assign(this, { user, name, desk, messages: new Map(), bubbles: new Map(), unseen: 0 });
    Object.assign(this, { typingTimer: 0, lastDay: "", online: false, sticks: true });
    this.section = copy("phone").firstElementChild;
    this.tab = copy("tab").firstElementChild;
    for (const part of ["log", "typing", "presence", "down"]) this[part] = this.find(`.${part}`);
    this.list = this.find(".bubbles");
    this.list.addEventListener("focusin", ({ target }) => target.matches(".act") && this.rove(target));
    this.list.addEventListener("keydown", (event) => this.step(event));
    this.log.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.down.addEventListener("click", () => this.toEnd("smooth"));
    const grown = new ResizeObserver(() => this.sticks && this.toEnd());
    grown.observe(this.log);
    grown.observe(this.list); // a picture that has loaded makes it longer
  }

  find(selector) {
    return this.section.querySelector(selector);
  }

  clear() {
    this.messages.clear();
    this.bubbles.clear();
    this.list.replaceChildren();
    this.lastDay = "";
    this.stopTyping();
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

function dayName(date) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  return days === 0 ? "Hoje" : days === 1 ? "Ontem" : day.format(date);
}
