//! Paths of the API that are for node agents alone, as both ends know them.

use super::remote::Query;

/// The name of the tunnel's protocol in the `Upgrade` header.
pub const TUNNEL_PROTOCOL: &str = "wasmfleet-tunnel";

/// With the answer to a tunnel: after how many seconds without a heartbeat the node counts as lost.
pub const GRACE_HEADER: &str = "wasmfleet-node-grace-seconds";

/// Why a program has no code: the reason of the cause of a 422.
pub const INVALID_MODULE: &str = "InvalidModule";
pub const COMPILE_LIMIT: &str = "CompileLimit";

/// What is below it is for the agent of that node alone.
fn own(node: &str) -> String {
    format!("/wasmfleet/v1/nodes/{node}/")
}

/// `/wasmfleet/v1/nodes/<name>/tunnel`.
pub fn tunnel_path(node: &str) -> String {
    own(node) + "tunnel"
}

/// `/wasmfleet/v1/nodes/<name>/code/`; the digest of a program follows.
pub fn code_path(node: &str) -> String {
    own(node) + "code/"
}

/// What a node asks for when it wants a program's native code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeQuery {
    /// `sha256:…` of the program.
    pub digest: String,
    /// For which machine: a triple, and a level of its CPU.
    pub triple: String,
    pub cpu: String,
    /// The hash of the engine's settings.
    pub settings: String,
    /// The pod that is to run it, and its image as `repository@sha256:…`; empty where the program is
    /// sent along.
    pub namespace: String,
    pub pod: String,
    pub image: String,
}

impl CodeQuery {
    /// The path and query of a node's request.
    pub fn path(&self, node: &str) -> String {
        let mut query = Query::default();
        for (name, value) in [
            ("triple", &self.triple),
            ("cpu", &self.cpu),
            ("settings", &self.settings),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
            ("image", &self.image),
        ] {
            query.add(name, value);
        }
        query.on(&(code_path(node) + &self.digest))
    }
}
