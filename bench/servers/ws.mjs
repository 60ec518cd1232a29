// `ws` on Node with a map of clients: the fastest thing that is usual in JavaScript.
import { WebSocketServer } from "ws";
import { clientOf, httpServer, listen } from "./http.mjs";

const clients = new Map();
const frame = (data) => JSON.stringify({ type: "notification", data });

const server = httpServer({
  notify: (clientId, data) => {
    const socket = clients.get(clientId);
    socket?.send(frame(data));
    return socket !== undefined;
  },
  broadcast: (data) => {
    const text = Buffer.from(frame(data));
    for (const socket of clients.values()) socket.send(text, { binary: false });
    return clients.size;
  },
});
const webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

server.on("upgrade", (request, socket, head) => {
  let clientId;
  try {
    clientId = clientOf((request.headers.authorization ?? "").slice("Bearer ".length));
  } catch {
    socket.end("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    return;
  }
  webSockets.handleUpgrade(request, socket, head, (webSocket) => {
    clients.set(clientId, webSocket);
    webSocket.on("close", () => clients.get(clientId) === webSocket && clients.delete(clientId));
  });
});
listen(server);
