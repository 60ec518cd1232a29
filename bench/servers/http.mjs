// The publishers' side of both Node servers: bare node:http, which is faster than any framework on top of it.
import { createServer } from "node:http";
import { timingSafeEqual } from "node:crypto";
import jwt from "jsonwebtoken";

const apiKey = Buffer.from(process.env.BENCH_API_KEY);
const jwtSecret = process.env.BENCH_JWT_SECRET;

export function clientOf(token) {
  return jwt.verify(token, jwtSecret, { algorithms: ["HS256"] }).sub;
}

function authorized(request) {
  const key = Buffer.from(request.headers["x-api-key"] ?? "");
  return key.length === apiKey.length && timingSafeEqual(key, apiKey);
}

function answer(response, status, body) {
  const text = JSON.stringify(body);
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
  response.end(text);
}

// `notify(clientId, data)` and `broadcast(data)` deliver; both answer at once, nothing is stored.
export function httpServer({ notify, broadcast }) {
  return createServer((request, response) => {
    if (request.url === "/healthz") return answer(response, 200, { status: "ok" });
    if (!authorized(request)) return answer(response, 401, { error: "unauthorized" });
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const body = JSON.parse(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
      if (request.url === "/notify") return answer(response, 202, { status: notify(body.client_id, body.data) ? "sent" : "dropped" });
      if (request.url === "/broadcast") return answer(response, 202, { connections: broadcast(body.data) });
      return answer(response, 404, { error: "not found" });
    });
  });
}

export function listen(server) {
  server.listen({ port: Number(process.env.BENCH_PORT), host: "127.0.0.1", backlog: 4096 });
}
