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
const key = Buffer.from(process.env.WEBHOOK_SECRET.replace("whsec_", ""), "base64");

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

// Responds with 204 after the event was handled. After another status, it is sent again.
createServer(async (request, response) => {
  const body = Buffer.concat(await request.toArray());
  const valid = isValid(request.headers, body);
  if (valid) receive(JSON.parse(body));
  response.writeHead(valid ? 204 : 401).end();
}).listen(Number(port), "127.0.0.1");
