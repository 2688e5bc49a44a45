//! The edges of the API server: certificates, connections, who may do what, tunnels, discovery,
//! the registry of artifacts; and the room `images`.

mod access;
mod connections;
mod discovery;
mod images;
mod openapi;
mod pki;
mod registry;
