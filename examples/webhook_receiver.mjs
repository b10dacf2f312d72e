// Receives events by a webhook: verifies each signature, and handles each event once and in order.
//
//   WEBHOOK_SECRET=whsec_... node examples/webhook_receiver.mjs 8000 position.txt
//
// Put a TLS proxy in front of it. The receiver ignores events up to the stored position: remove the
// file before you set an earlier position with UpdateWebhook.

import { createHmac, timingSafeEqual } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const [port, stored] = process.argv.slice(2);
const key = Buffer.from((process.env.WEBHOOK_SECRET ?? "").replace("whsec_", ""), "base64");
if (key.length < 24) {
  console.error("set WEBHOOK_SECRET to the secret of the webhook, such as whsec_…");
  process.exit(1);
}

function isValid({ "webhook-id": id, "webhook-timestamp": sentAt, "webhook-signature": signatures = "" }, body) {
  const expected = createHmac("sha256", key).update(`${id}.${sentAt}.`).update(body).digest();
  const isSigned = signatures.split(" ").some((signature) => { // during a rotation of the secret, there are two
    const given = Buffer.from(signature.replace("v1,", ""), "base64");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
  return isSigned && Math.abs(Date.now() / 1000 - sentAt) < 300;
}

// Handles an event, unless it or a later one was handled before.
function receive({ type, data }) {
  const position = Number(data.position ?? 0); // less than 2^53; webhook.test has none
  if (position <= (existsSync(stored) ? Number(readFileSync(stored, "utf8")) : 0)) return;
  console.log(type, data.job_id); // your work
  writeFileSync(stored, String(position)); // better: in the transaction of your work
}

// Returns 204 after the event was handled. After another status, it is sent again.
async function statusOf(request) {
  try {
    const body = Buffer.concat(await request.toArray());
    if (!isValid(request.headers, body)) return 401;
    receive(JSON.parse(body));
    return 204;
  } catch (error) { // the sender is gone, or your work has failed
    console.error(error);
    return 500;
  }
}

createServer(async (request, response) => {
  response.writeHead(await statusOf(request)).end();
}).listen(Number(port), "127.0.0.1");
