// socket.io on Node, WebSocket transport only, with a room per client.
import { Server } from "socket.io";
import { clientOf, httpServer, listen } from "./http.mjs";

const server = httpServer({
  notify: (clientId, data) => io.to(clientId).emit("notification", data),
  broadcast: (data) => {
    io.emit("notification", data);
    return io.engine.clientsCount;
  },
});
const io = new Server(server, { transports: ["websocket"], serveClient: false });

io.use((socket, next) => {
  try {
    socket.data.clientId = clientOf(socket.handshake.auth.token);
    next();
  } catch {
    next(new Error("token"));
  }
});
io.on("connection", (socket) => socket.join(socket.data.clientId));
listen(server);
