//! A namespace of the shared cluster that belongs to one test.

use std::path::Path;

use super::{Cluster, Output, WASMCTL, tools};

pub struct Space {
    pub cluster: &'static Cluster,
    pub name: String,
}

impl Space {
    /// A fresh namespace. Its name is the test's, so that failures are easy to place.
    pub fn new(name: &str) -> Space {
        let cluster = Cluster::shared();
        let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        cluster.apply(&manifest);
        Space { cluster, name: name.to_string() }
    }

    /// The same for a test that needs kubectl; `None` where there is none.
    pub fn with_kubectl(name: &str) -> Option<Space> {
        tools::kubectl().map(|_| Space::new(name))
    }

    pub fn wasmctl(&self, words: &str) -> Output {
        self.run(Path::new(WASMCTL), words, "")
    }

    pub fn kubectl(&self, words: &str) -> Output {
        self.kubectl_with(words, "", &[])
    }

    /// kubectl with an input and environment variables.
    pub fn kubectl_with(&self, words: &str, stdin: &str, env: &[(&str, &str)]) -> Output {
        let kubectl = tools::kubectl().expect("tests with kubectl look for it first");
        self.cluster.run_with(kubectl, &format!("-n {} {words}", self.name), stdin, env)
    }

    fn run(&self, program: &Path, words: &str, stdin: &str) -> Output {
        self.cluster.run(program, &format!("-n {} {words}", self.name), stdin)
    }

    pub fn apply(&self, manifest: &str) -> String {
        self.wasmctl_with("apply -f -", manifest).ok()
    }

    pub fn wasmctl_with(&self, words: &str, stdin: &str) -> Output {
        self.run(Path::new(WASMCTL), words, stdin)
    }

    /// Waits until a workload is rolled out.
    pub fn rolled_out(&self, what: &str) {
        self.wasmctl(&format!("rollout status {what} --timeout 90s")).ok();
    }

    /// One value of an object, by JSONPath.
    pub fn value(&self, what: &str, path: &str) -> String {
        self.wasmctl(&format!("get {what} -o jsonpath={{{path}}}")).ok()
    }

    /// Waits until a value is as wanted.
    #[track_caller]
    pub fn wait_value(&self, what: &str, path: &str, wanted: &str) {
        super::until(&format!("{what} {path} = {wanted}"), || {
            let output = self.wasmctl(&format!("get {what} -o jsonpath={{{path}}}"));
            match output.code == 0 && output.stdout == wanted {
                true => Ok(()),
                false => Err(output.told()),
            }
        });
    }

    /// Waits for a pod's end; its exit code.
    pub fn exit_code(&self, pod: &str) -> i32 {
        let path = ".status.containerStatuses[0].state.terminated.exitCode";
        let text = super::until(&format!("the end of {pod}"), || {
            let code = self.value(&format!("pod {pod}"), path);
            if code.is_empty() { Err(self.wasmctl("get pods").stdout) } else { Ok(code) }
        });
        text.parse().expect("a number")
    }

    pub fn service_url(&self, name: &str) -> String {
        self.cluster.service_url(&self.name, name)
    }
}

impl Drop for Space {
    /// Frees what the test used, without waiting for it.
    fn drop(&mut self) {
        self.cluster.wasmctl(&format!("delete namespace {} --no-wait", self.name));
    }
}
