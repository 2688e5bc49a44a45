//! The edges of the API server: certificates, connections, who may do what, tunnels, discovery,
//! the registry of artifacts; and the room `images`.

mod abuse;
mod access;
mod bombs;
mod connections;
mod discovery;
mod draining;
mod foreign;
mod images;
mod indexes;
mod openapi;
mod pki;
mod registry;
mod websockets;
