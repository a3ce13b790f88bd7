// The page: phones side by side, each one person's. In come the server's events, out go
// what people write. The server knows the conversations; only who has a phone is kept here.

import { formatted, onlyEmoji } from "./format.js";

const BASE = document.body.dataset.base;
const STORED = "chatbot.simulator.people";
const FIRST = [
  { user: "5511999990001", name: "Maria" },
  { user: "5521988880002", name: "João" },
];
const NAMES = ["Ana", "Pedro", "Lia", "Rafael", "Sofia", "Davi", "Clara", "Bruno", "Helena", "Caio"];
const COLORS = ["#c2410c", "#1d4ed8", "#7e22ce", "#be185d", "#0f766e", "#a16207", "#4338ca", "#15803d"];
const TICKS = { clock: "enviando", sent: "enviada", delivered: "entregue", read: "lida", failed: "não entregue" };
const NEAR_THE_END = 80;

const narrow = matchMedia("(max-width: 759px)");
const phones = new Map();
const desk = document.querySelector(".desk");
const tabs = document.querySelector(".tabs");
const hour = new Intl.DateTimeFormat("pt-BR", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("pt-BR", { day: "numeric", month: "long", year: "numeric" });
let active = FIRST[0].user;
let last = 0;
let feed = null;
let late = 0;

const copy = (id) => document.getElementById(id).content.cloneNode(true);

class Phone {
  constructor({ user, name }, color) {
    Object.assign(this, { user, name, bubbles: new Map(), unseen: 0, typingTimer: 0, lastDay: "", online: false });
    this.section = copy("phone").firstElementChild;
    this.tab = copy("tab").firstElementChild;
    for (const part of ["log", "typing", "presence", "composer", "down"])
      this[part] = this.find(`.${part}`);
    this.list = this.find(".bubbles");
    this.input = this.find("textarea");
    this.button = this.find(".composer button");
    this.dress(color);
    this.listen();
  }

  find(selector) {
    return this.section.querySelector(selector);
  }

  dress(color) {
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
    remove.hidden = FIRST.some((person) => person.user === user);
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
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.submit();
    });
    this.input.addEventListener("input", () => this.fit());
    this.attached = this.find(".attach input");
    this.attached.addEventListener("change", () => this.attach());
    this.log.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.down.addEventListener("click", () => this.toEnd("smooth"));
    this.find(".remove").addEventListener("click", () => removePerson(this));
    this.tab.addEventListener("click", () => activate(this.user));
    new ResizeObserver(() => this.sticks && this.toEnd()).observe(this.log);
    this.sticks = true;
  }

  // What the person writes

  submit() {
    const text = this.input.value.trim();
    if (!text) return;
    this.input.value = "";
    this.fit();
    this.sticks = true;
    this.say({ id: newId(), text });
    this.input.focus();
  }

  // An image takes what is written as its caption; audio goes as a voice note.
  async attach() {
    const [file] = this.attached.files;
    if (!file) return;
    const image = file.type.startsWith("image/");
    const media = { mime_type: file.type, data: await base64(file), voice: !image };
    const text = image ? this.input.value.trim() : "";
    this.attached.value = "";
    if (image) this.input.value = "";
    this.fit();
    this.sticks = true;
    this.say({ id: newId(), text, media });
  }

  async say({ id, text, media, choice = false }) {
    const shown = !media ? text : media.voice ? "🎤 Mensagem de voz" : `📷 ${text || "Imagem"}`;
    const said = { id, text, media, choice };
    this.put({ id, side: "out", text: shown, time: Date.now() / 1000, state: "clock", said });
    let status = 0;
    try {
      const answer = await fetch(`${BASE}/say`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ from: this.user, name: this.name, text, id, media, choice }),
      });
      if (answer.ok) status = (await answer.json()).status;
    } catch {
      status = 0;
    }
    this.setState(id, status === 200 ? "delivered" : "failed");
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
    if (typing > 0) this.startTyping(typing);
    this.unseen = 0;
    this.toEnd();
  }

  clear() {
    this.bubbles.clear();
    this.list.replaceChildren();
    this.lastDay = "";
    this.stopTyping();
  }

  put(message) {
    if (message.side === "in") this.stopTyping();
    if (this.bubbles.has(message.id)) return this.setState(message.id, message.state);
    const bubble = copy("bubble").firstElementChild;
    bubble.classList.add(message.side);
    bubble.classList.toggle("emoji", onlyEmoji(message.text));
    bubble.dataset.id = message.id;
    bubble.querySelector(".text").append(formatted(message.text));
    bubble.querySelector(".retry").addEventListener("click", () => this.say(message.said ?? message));
    this.offer(bubble, message.choices ?? []);
    const written = new Date(message.time * 1000);
    const time = bubble.querySelector("time");
    time.textContent = hour.format(written);
    time.dateTime = written.toISOString();
    this.separate(written);
    const before = this.list.lastElementChild;
    bubble.classList.toggle("first", !before?.classList.contains(message.side));
    this.list.append(bubble);
    this.bubbles.set(message.id, bubble);
    if (message.side === "out") this.setState(message.id, message.state);
    this.arrived(message.side);
  }

  offer(bubble, choices) {
    if (!choices.length) return;
    const list = document.createElement("div");
    list.className = "choices";
    for (const title of choices) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        this.sticks = true;
        this.say({ id: newId(), text: title, choice: true });
      });
      list.append(button);
    }
    bubble.append(list);
  }

  separate(written) {
    const name = dayName(written);
    if (name === this.lastDay) return;
    this.lastDay = name;
    const chip = document.createElement("p");
    chip.className = "day";
    chip.textContent = name;
    this.list.append(chip);
  }

  setState(id, state) {
    const bubble = this.bubbles.get(id);
    if (!bubble?.classList.contains("out") || bubble.dataset.state === "read") return;
    bubble.dataset.state = state;
    const ticks = bubble.querySelector(".ticks");
    const drawn = state === "read" ? "delivered" : state;
    ticks.replaceChildren(document.getElementById("ticks").content.querySelector(`[data-state=${drawn}]`).cloneNode(true));
    ticks.setAttribute("aria-label", TICKS[state]);
    ticks.hidden = false;
    bubble.querySelector(".retry").hidden = state !== "failed";
    if (this.sticks) this.toEnd();
  }

  arrived(side) {
    if (this.sticks && this.shown) return this.toEnd();
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

  get shown() {
    return !narrow.matches || this.user === active;
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
    if (this.shown) this.unseen = 0;
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

// People

function people() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORED));
    if (Array.isArray(stored) && stored.length) return stored;
  } catch {
    /* a browser that keeps nothing starts with the first two */
  }
  return FIRST;
}

function keepPeople() {
  try {
    localStorage.setItem(STORED, JSON.stringify([...phones.values()].map(({ user, name }) => ({ user, name }))));
  } catch {
    /* nothing is lost but the extra phones */
  }
}

function addPerson(person) {
  const phone = new Phone(person, COLORS[phones.size % COLORS.length]);
  phones.set(person.user, phone);
  desk.append(phone.section);
  tabs.append(phone.tab);
  tick();
  return phone;
}

function newPerson() {
  let number = phones.size + 1;
  while (phones.has(numbered(number))) number += 1;
  const taken = new Set([...phones.values()].map((phone) => phone.name));
  const name = NAMES.find((candidate) => !taken.has(candidate)) ?? `Pessoa ${number}`;
  const phone = addPerson({ user: numbered(number), name });
  keepPeople();
  activate(phone.user);
  history([phone]).then(show).then(connect, reload);
  phone.section.scrollIntoView({ behavior: "smooth", inline: "end", block: "nearest" });
  phone.input.focus({ preventScroll: true });
}

function removePerson(phone) {
  phones.delete(phone.user);
  phone.section.remove();
  phone.tab.remove();
  keepPeople();
  activate(phone.user === active ? phones.keys().next().value : active);
  connect();
}

function activate(user) {
  const changed = user !== active;
  active = user;
  for (const phone of phones.values()) {
    const chosen = phone.user === user;
    phone.section.classList.toggle("active", chosen);
    phone.tab.setAttribute("aria-selected", chosen);
    phone.tab.tabIndex = chosen ? 0 : -1;
    if (narrow.matches) phone.section.setAttribute("role", "tabpanel");
    else phone.section.removeAttribute("role");
  }
  phones.get(user).tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  phones.get(user).toEnd();
  if (changed && narrow.matches) connect();
}

// The server

async function reload() {
  feed?.close();
  const loaded = await history([...phones.values()]).catch(() => null);
  if (!loaded) {
    setOnline(false);
    return setTimeout(reload, 1000);
  }
  last = loaded.last;
  show(loaded);
  connect();
}

function show(loaded) {
  for (const [user, conversation] of Object.entries(loaded.conversations)) phones.get(user)?.load(conversation);
}

async function history(some) {
  const answer = await fetch(`${BASE}/conversations?users=${listed(some)}`);
  return answer.ok ? answer.json() : null;
}

const listed = (some) => encodeURIComponent(some.map((phone) => phone.user).join(","));

function connect() {
  feed?.close();
  const all = [...phones.values()];
  const shown = document.hidden ? [] : all.filter((phone) => phone.shown);
  feed = new EventSource(`${BASE}/events?since=${last}&users=${listed(all)}&shown=${listed(shown)}`);
  feed.onopen = () => setOnline(true);
  feed.onmessage = ({ data, lastEventId }) => {
    last = Number(lastEventId);
    happened(JSON.parse(data));
  };
  feed.addEventListener("reset", reload);
  feed.onerror = () => {
    if (feed.readyState === EventSource.CLOSED) setTimeout(reload, 1000);
    late ||= setTimeout(setOnline, 2000, false);
  };
}

function setOnline(online) {
  clearTimeout(late);
  late = 0;
  for (const phone of phones.values()) {
    phone.online = online;
    phone.showPresence();
  }
}

function happened(event) {
  if (event.kind === "forgotten") for (const phone of phones.values()) phone.clear();
  const phone = phones.get(event.user);
  if (!phone) return;
  if (event.kind === "message") phone.put(event);
  if (event.kind === "status" && event.side === "out") phone.setState(event.id, event.state);
  if (event.kind === "typing") phone.startTyping(event.seconds);
}

// Small things

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return `wamid.${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_")}`;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

const numbered = (number) => `55119999900${String(number).padStart(2, "0")}`;

function readable(user) {
  const parts = /^55(\d\d)(\d{4,5})(\d{4})$/.exec(user);
  return parts ? `+55 ${parts[1]} ${parts[2]}-${parts[3]}` : user;
}

function dayName(date) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  return days === 0 ? "Hoje" : days === 1 ? "Ontem" : day.format(date);
}

function tick() {
  for (const clock of document.querySelectorAll(".statusbar time")) clock.textContent = hour.format(new Date());
}

for (const person of people()) addPerson(person);
active = phones.has(active) ? active : phones.keys().next().value;
activate(active);
setInterval(tick, 10_000);
document.querySelector(".add").addEventListener("click", newPerson);
document.addEventListener("visibilitychange", connect);
narrow.addEventListener("change", () => {
  activate(active);
  connect();
});
tabs.addEventListener("keydown", ({ key }) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (!step) return;
  const users = [...phones.keys()];
  activate(users[(users.indexOf(active) + step + users.length) % users.length]);
  phones.get(active).tab.focus();
});
reload().then(() => narrow.matches || phones.get(active).input.focus());
