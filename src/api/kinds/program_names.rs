//! Which names the program of a container goes by. A Wasm container has one program and no shell, so
//! a command that is run in it (by exec, a probe or a hook) has to begin with one of them.

use k8s_openapi::api::core::v1::Container;

/// `hello` of `registry:5000/team/hello:v1@sha256:…`.
pub fn of_image(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(':').next().unwrap_or(last)
}

/// The names of a program that was started as `own` from an image of this name; the first is the one
/// that is recommended.
pub fn all(own: &str, image: &str) -> Vec<String> {
    let short = own.rsplit('/').next().unwrap_or(own);
    let mut names: Vec<String> = Vec::new();
    for name in [own, short, image] {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    }
    names
}

/// Whether `asked` is one of the names.
pub fn has(names: &[String], asked: &str) -> bool {
    let bare = asked.strip_suffix(".wasm").unwrap_or(asked);
    names.iter().any(|known| known == asked || known == bare)
}

/// The names of a container's program, by its spec.
pub fn of(container: &Container) -> Vec<String> {
    let image = of_image(container.image.as_deref().unwrap_or_default());
    let own = container.command.iter().flatten().next();
    all(own.map_or(image, String::as_str), image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        assert_eq!(of_image("registry:5000/team/hello:v1@sha256:00"), "hello");
        assert_eq!(of_image("hello"), "hello");
        assert_eq!(of_image("oci://ghcr.io/a/b:c"), "b");
    }

    #[test]
    fn a_container_has_the_names_of_its_command_and_image() {
        let mut container =
            Container { image: Some("r.io/a/web:v1".into()), ..Container::default() };
        assert_eq!(of(&container), ["web"]);
        container.command = Some(vec!["/bin/serve".into(), "x".into()]);
        let names = of(&container);
        assert_eq!(names, ["/bin/serve", "serve", "web"]);
        assert!(has(&names, "serve.wasm") && !has(&names, "sh"));
    }
}
