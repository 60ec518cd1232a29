"""What the network meets: HTTP, the WebSocket handshake, frames and event streams."""
