// What is done with one message: answer it, react to it, edit it, delete it. In comes a
// bubble's button, out go calls to its phone. One panel serves all bubbles.

import { popUp } from "./attachments.js";

const EDIT_SECONDS = 15 * 60; // after that WhatsApp offers it no more

const panel = document.getElementById("actions");
let asked = null; // the phone and the message it is about

export function openActions(phone, message, button) {
  asked = { phone, message, button };
  const mine = message.side === "out";
  const fresh = Date.now() / 1000 - message.time < EDIT_SECONDS;
  const wordy = message.type === "text" && !message.content.choice || "caption" in message.content;
  offer("edit", mine && fresh && wordy && !["audio", "sticker"].includes(message.type));
  offer("revoke", mine);
  for (const emoji of panel.querySelectorAll("[data-emoji]"))
    emoji.setAttribute("aria-pressed", emoji.dataset.emoji === message.reaction);
  popUp(panel, button);
}

function offer(name, offered) {
  panel.querySelector(`[data-do=${name}]`).hidden = !offered;
}

panel.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const { phone, message } = asked;
  panel.hidePopover();
  if (button.dataset.emoji) phone.react(message, button.dataset.emoji);
  if (button.dataset.do === "reply") phone.quote(message);
  if (button.dataset.do === "edit") phone.edit(message);
  if (button.dataset.do === "revoke") phone.change({ revokes: message.id, text: "" });
});

panel.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...panel.querySelectorAll("button:not([hidden])")];
  buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
});
