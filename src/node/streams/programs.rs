//! Which names a command may begin with. A Wasm container has one program and no shell: whoever
//! asks for another one must not run it by accident.

use k8s_openapi::api::core::v1::Pod;

use crate::api::kinds::{pod_grants, program_names};

/// The names of one container's program.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// The first is the one that is recommended.
    names: Vec<String>,
    any: bool,
}

impl Programs {
    /// `own`: the name that the container was started by; `image`: that of its image.
    pub fn new(pod: &Pod, own: &str, image: &str) -> Programs {
        let annotations = pod.metadata.annotations.as_ref();
        let listed = annotations.and_then(|map| map.get(pod_grants::EXEC_PROGRAMS));
        let listed = listed.map(String::as_str).unwrap_or_default();
        let more = listed.split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut names = program_names::all(own, image);
        names.extend(more.clone().map(str::to_string));
        Programs { names, any: more.into_iter().any(|name| name == "*") }
    }

    pub fn has(&self, name: &str) -> bool {
        self.any || program_names::has(&self.names, name)
    }

    /// What to do instead.
    pub fn advice(&self, asked: &str) -> String {
        let own = self.names.first().map(String::as_str).unwrap_or_default();
        format!(
            "exec: {asked:?}: no such program in this container: it has no shell, only its own \
             WebAssembly program; to run that once more, with other arguments: {own} ARGUMENTS…"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_program_is_there() {
        let mut pod = Pod::default();
        let programs = Programs::new(&pod, "/bin/tool", "hello");
        for name in ["/bin/tool", "tool", "hello", "tool.wasm"] {
            assert!(programs.has(name), "{name}");
        }
        assert!(!programs.has("sh") && programs.advice("sh").contains("/bin/tool ARGUMENTS"));
        let annotation = (pod_grants::EXEC_PROGRAMS.to_string(), "ls, cat".to_string());
        pod.metadata.annotations = Some([annotation].into());
        let programs = Programs::new(&pod, "box", "box");
        assert!(programs.has("cat") && !programs.has("sh"));
        let annotation = (pod_grants::EXEC_PROGRAMS.to_string(), "*".to_string());
        pod.metadata.annotations = Some([annotation].into());
        assert!(Programs::new(&pod, "box", "box").has("sh"));
    }
}
