// What a person wrote and the server has not taken yet. In come messages, out goes what
// became of each. Promise: they go one after the other, in the order they were written; one
// that finds no server waits here, also over a reload, and goes again when it is back. The
// server posts a message of one id once (`once`), so that a lost answer doubles nothing.

const UNSENT = "chatbot.simulator.unsent";
const DRAFT = "chatbot.simulator.draft";

export class Outbox {
  // `settled(said, state)` is told where one stands: clock while it is posted, then delivered,
  // failed or unsent.
  constructor({ base, user, name, settled }) {
    Object.assign(this, { base, user, name, settled, sending: false });
    this.waiting = stored(user);
  }

  add(said) {
    this.waiting.push(said);
    keep(key(this.user, said.id), JSON.stringify(said)); // a large file waits in memory only
    return this.flush();
  }

  async flush() {
    if (this.sending) return;
    this.sending = true;
    while (this.waiting.length) {
      const [said] = this.waiting;
      this.settled(said, "clock");
      const state = await this.post(said);
      if (state === "unsent") break;
      this.waiting.shift();
      drop(key(this.user, said.id));
      this.settled(said, state);
    }
    this.sending = false;
    for (const said of this.waiting) this.settled(said, "unsent");
  }

  async post(said) {
    try {
      const answer = await fetch(`${this.base}/say`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...said, from: this.user, name: this.name, once: true }),
      });
      if (answer.status >= 500) return "unsent";
      return answer.ok && (await answer.json()).status === 200 ? "delivered" : "failed";
    } catch {
      return "unsent";
    }
  }

  forget() {
    for (const said of this.waiting.splice(0)) drop(key(this.user, said.id));
    drop(`${DRAFT}.${this.user}`);
  }

  get draft() {
    return read(`${DRAFT}.${this.user}`) ?? "";
  }

  set draft(text) {
    if (text) keep(`${DRAFT}.${this.user}`, text);
    else drop(`${DRAFT}.${this.user}`);
  }
}

const key = (user, id) => `${UNSENT}.${user}.${id}`;

function stored(user) {
  const found = [];
  for (const name of names()) {
    if (!name.startsWith(key(user, ""))) continue;
    try {
      found.push(JSON.parse(read(name)));
    } catch {
      drop(name);
    }
  }
  return found.sort((one, other) => one.time - other.time);
}

// A browser that keeps nothing loses what waits with the page, no more.

export function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function keep(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch {
    /* full, or not allowed */
  }
}

function drop(name) {
  try {
    localStorage.removeItem(name);
  } catch {
    /* not allowed */
  }
}

function names() {
  try {
    return Object.keys(localStorage);
  } catch {
    return [];
  }
}
