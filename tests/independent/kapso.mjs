// Another project's reading of the same webhooks, and its client against our stand-in.
//   node kapso.mjs normalize < [bodies as JSON]       → [[{id, text}, …], …]
//   node kapso.mjs talk <graph url> <number id>       → {sent, read, limited}
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
const { GraphApiError, WhatsAppClient } = require("@kapso/whatsapp-cloud-api");
const { normalizeWebhook } = require("@kapso/whatsapp-cloud-api/server");

function textOf(message) {
  const reply = message.interactive?.buttonReply ?? message.interactive?.listReply;
  return message.text?.body ?? message.button?.text ?? reply?.title ?? message[message.type]?.caption ?? null;
}

function normalize(bodies) {
  return bodies.map((body) =>
    normalizeWebhook(body)
      .messages.filter((message) => message.kapso?.source !== "smb_message_echo")
      .map((message) => ({ id: message.id, text: textOf(message) })),
  );
}

async function talk(baseUrl, phoneNumberId) {
  const client = new WhatsAppClient({ accessToken: "any", baseUrl, graphVersion: "v26.0" });
  const sent = await client.messages.sendText({ phoneNumberId, to: "5511999990001", body: "olá" });
  const read = await client.messages.markRead({
    phoneNumberId,
    messageId: "wamid.in",
    typingIndicator: { type: "text" },
  });
  const limited = await client.messages
    .sendText({ phoneNumberId, to: "5511988880002", body: "olá" })
    .then(() => null)
    .catch((error) => ({
      known: error instanceof GraphApiError,
      code: error.code,
      limit: error.isRateLimit(),
      retry: error.retry?.action,
    }));
  return { sent, read, limited };
}

const [verb, ...rest] = process.argv.slice(2);
const answer = verb === "normalize" ? normalize(JSON.parse(readFileSync(0, "utf8"))) : await talk(...rest);
console.log(JSON.stringify(answer));
