// The page: phones side by side, each one person's. In come the server's events, out go
// what people write. The server knows the conversations; here are only who has a phone, and
// what the server has not taken yet (`outbox.js`).

import { keep, read } from "./outbox.js";
import { Phone } from "./phone.js";

const STORED = "chatbot.simulator.people";
const FIRST = [
  { user: "5511999990001", name: "Maria" },
  { user: "5521988880002", name: "João" },
];
const NAMES = ["Ana", "Pedro", "Lia", "Rafael", "Sofia", "Davi", "Clara", "Bruno", "Helena", "Caio"];
const COLORS = ["#c2410c", "#1d4ed8", "#7e22ce", "#be185d", "#0f766e", "#a16207", "#4338ca", "#15803d"];

const narrow = matchMedia("(max-width: 759px)");
const phones = new Map();
const tabs = document.querySelector(".tabs");
const hour = new Intl.DateTimeFormat("pt-BR", { hour: "2-digit", minute: "2-digit" });
let active = FIRST[0].user;
let last = 0;
let feed = null;
let late = 0;

const desk = {
  base: document.body.dataset.base,
  place: document.querySelector(".desk"),
  shows: (phone) => !narrow.matches || phone.user === active,
  activate,
  remove: removePerson,
};

// People

function people() {
  try {
    const stored = JSON.parse(read(STORED));
    if (Array.isArray(stored) && stored.length) return stored;
  } catch {
    /* what is stored is not ours */
  }
  return FIRST;
}

function keepPeople() {
  keep(STORED, JSON.stringify([...phones.values()].map(({ user, name }) => ({ user, name }))));
}

function addPerson(person) {
  const fixed = FIRST.some(({ user }) => user === person.user);
  const phone = new Phone(person, { desk, color: COLORS[phones.size % COLORS.length], fixed });
  phones.set(person.user, phone);
  desk.place.append(phone.section);
  tabs.append(phone.tab);
  phone.fit(); // only now is it measured
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
  phone.outbox.forget();
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
  const answer = await fetch(`${desk.base}/conversations?users=${listed(some)}`);
  return answer.ok ? answer.json() : null;
}

const listed = (some) => encodeURIComponent(some.map((phone) => phone.user).join(","));

function connect() {
  feed?.close();
  const all = [...phones.values()];
  const shown = document.hidden ? [] : all.filter(desk.shows);
  feed = new EventSource(`${desk.base}/events?since=${last}&users=${listed(all)}&shown=${listed(shown)}`);
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
  for (const phone of phones.values()) phone.setOnline(online);
}

function happened(event) {
  if (event.kind === "forgotten") for (const phone of phones.values()) phone.load({ messages: [], typing: 0 });
  const phone = phones.get(event.user);
  if (!phone) return;
  if (event.kind === "message") phone.put(event);
  if (event.kind === "changed") phone.refresh(event);
  if (event.kind === "status" && event.side === "out") phone.setState(event.id, event.state);
  if (event.kind === "typing") phone.startTyping(event.seconds);
}

// Small things

const numbered = (number) => `55119999900${String(number).padStart(2, "0")}`;

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
