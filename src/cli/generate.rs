//! `wasmctl create KIND NAME …`: simple objects from arguments, as kubectl makes them.

mod job;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::args::Outcome;
use super::create;
use super::report::Report;
use super::session::Session;

#[derive(Subcommand)]
pub enum Simple {
    /// A Namespace
    #[command(visible_alias = "ns")]
    Namespace {
        name: String,
        #[command(flatten)]
        how: Outcome,
    },
    /// A ConfigMap of literals and files
    #[command(visible_alias = "cm")]
    Configmap {
        name: String,
        #[command(flatten)]
        content: Content,
        #[command(flatten)]
        how: Outcome,
    },
    /// A Secret
    Secret {
        #[command(subcommand)]
        secret: Secret,
    },
    /// A Deployment
    #[command(visible_alias = "deploy")]
    Deployment {
        name: String,
        /// The image of a container; more images are more containers
        #[arg(long, required = true)]
        image: Vec<String>,
        #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..))]
        replicas: i32,
        /// The port that the component serves
        #[arg(long)]
        port: Option<u16>,
        /// Arguments for the program
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
        #[command(flatten)]
        how: Outcome,
    },
    /// A Job of an image, or of a CronJob at once
    Job {
        name: String,
        /// The image of its container
        #[arg(long, required_unless_present = "from", conflicts_with = "from")]
        image: Option<String>,
        /// The CronJob whose Job it is to be, e.g. cronjob/nightly
        #[arg(long, value_name = "cronjob/NAME")]
        from: Option<String>,
        /// Arguments for the program
        #[arg(last = true, value_name = "ARGS", conflicts_with = "from")]
        args: Vec<String>,
        #[command(flatten)]
        how: Outcome,
    },
    /// A Service
    #[command(visible_alias = "svc")]
    Service {
        #[command(subcommand)]
        service: Service,
    },
    /// A ServiceAccount
    #[command(visible_alias = "sa")]
    Serviceaccount {
        name: String,
        #[command(flatten)]
        how: Outcome,
    },
}

#[derive(Subcommand)]
pub enum Secret {
    /// Of literals and files
    Generic {
        name: String,
        #[command(flatten)]
        content: Content,
        /// The Secret's type [default: Opaque]
        #[arg(
            long = "type",
            value_name = "TYPE",
            default_value = "Opaque",
            hide_default_value = true
        )]
        kind: String,
        #[command(flatten)]
        how: Outcome,
    },
    /// Credentials for a registry, for imagePullSecrets
    DockerRegistry {
        name: String,
        #[arg(long, default_value = "https://index.docker.io/v1/", value_name = "HOST")]
        docker_server: String,
        #[arg(long, value_name = "USER")]
        docker_username: String,
        #[arg(long, value_name = "PASSWORD")]
        docker_password: String,
        #[arg(long, default_value = "", hide_default_value = true, value_name = "EMAIL")]
        docker_email: String,
        #[command(flatten)]
        how: Outcome,
    },
    /// A certificate and its key
    Tls {
        name: String,
        /// The certificate's PEM file
        #[arg(long, value_name = "FILE")]
        cert: String,
        /// The key's PEM file
        #[arg(long, value_name = "FILE")]
        key: String,
        #[command(flatten)]
        how: Outcome,
    },
}

#[derive(Subcommand)]
pub enum Service {
    /// With an address inside the cluster; it selects the pods with the label app=NAME
    Clusterip {
        name: String,
        /// PORT or PORT:TARGETPORT
        #[arg(long, value_name = "PORT[:TARGET]", required = true)]
        tcp: Vec<String>,
        #[command(flatten)]
        how: Outcome,
    },
}

/// Where the entries of a ConfigMap or Secret come from.
#[derive(Args)]
pub struct Content {
    /// An entry, KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file, or all files of a folder, as entries by their names; KEY=FILE for another key
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
    /// A file with a KEY=VALUE a line
    #[arg(long, value_name = "FILE")]
    from_env_file: Vec<String>,
}

pub async fn run(session: &Session, simple: &Simple) -> anyhow::Result<()> {
    let (mut value, how) = object(simple)?;
    let mut report = Report::of(how)?;
    if let Simple::Job { from: Some(from), .. } = simple {
        job::fill(&mut value, &job::cron_job(session, from).await?);
    }
    let (title, created) = create::create_made(session, value, how.dry_run()).await?;
    report.done(&title, "created", created)?;
    report.finish()
}

fn object(simple: &Simple) -> anyhow::Result<(Value, &Outcome)> {
    let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    Ok(match simple {
        Simple::Namespace { name, how } => (named("Namespace", name), how),
        Simple::Serviceaccount { name, how } => (named("ServiceAccount", name), how),
        Simple::Configmap { name, content, how } => {
            let mut object = named("ConfigMap", name);
            for (key, bytes) in content.entries()? {
                match String::from_utf8(bytes) {
                    Ok(text) => object["data"][key] = json!(text),
                    Err(error) => {
                        object["binaryData"][key] = json!(STANDARD.encode(error.as_bytes()))
                    }
                }
            }
            (object, how)
        }
        Simple::Secret { secret } => secret_object(secret)?,
        Simple::Deployment { name, image, replicas, port, args, how } => {
            let containers = containers(image, *port, args)?;
            let object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": containers},
                    },
                },
            });
            (object, how)
        }
        Simple::Job { name, image, args, how, .. } => {
            let mut object = json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            });
            if let Some(image) = image {
                let mut containers = containers(std::slice::from_ref(image), None, args)?;
                containers[0]["name"] = json!(name);
                let spec = json!({"restartPolicy": "Never", "containers": containers});
                object["spec"] = json!({"template": {"spec": spec}});
            }
            (object, how)
        }
        Simple::Service { service: Service::Clusterip { name, tcp, how } } => {
            let mut object = named("Service", name);
            object["metadata"]["labels"] = json!({"app": name});
            let ports: Vec<Value> = tcp.iter().map(|text| port(text)).collect::<Result<_, _>>()?;
            object["spec"] =
                json!({"type": "ClusterIP", "selector": {"app": name}, "ports": ports});
            (object, how)
        }
    })
}

fn secret_object(secret: &Secret) -> anyhow::Result<(Value, &Outcome)> {
    let (name, kind, entries, how) = match secret {
        Secret::Generic { name, content, kind, how } => {
            (name, kind.as_str(), content.entries()?, how)
        }
        Secret::DockerRegistry {
            name,
            docker_server,
            docker_username,
            docker_password,
            docker_email,
            how,
        } => {
            let auth = STANDARD.encode(format!("{docker_username}:{docker_password}"));
            let mut entry = json!({
                "username": docker_username, "password": docker_password, "auth": auth,
            });
            if !docker_email.is_empty() {
                entry["email"] = json!(docker_email);
            }
            let config = json!({"auths": {docker_server: entry}}).to_string();
            let entries = BTreeMap::from([(".dockerconfigjson".to_string(), config.into_bytes())]);
            (name, "kubernetes.io/dockerconfigjson", entries, how)
        }
        Secret::Tls { name, cert, key, how } => {
            let entries = BTreeMap::from([
                ("tls.crt".to_string(), read(Path::new(cert))?),
                ("tls.key".to_string(), read(Path::new(key))?),
            ]);
            (name, "kubernetes.io/tls", entries, how)
        }
    };
    let data: Map<String, Value> =
        entries.into_iter().map(|(key, bytes)| (key, json!(STANDARD.encode(bytes)))).collect();
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                            "type": kind});
    if !data.is_empty() {
        object["data"] = Value::Object(data);
    }
    Ok((object, how))
}

/// Containers named after their images.
fn containers(images: &[String], port: Option<u16>, args: &[String]) -> anyhow::Result<Vec<Value>> {
    if images.len() > 1 && !args.is_empty() {
        bail!("arguments can be given for one image only");
    }
    let mut containers = Vec::new();
    for image in images {
        let last = image.rsplit('/').next().unwrap_or(image);
        let name = last.split([':', '@']).next().unwrap_or(last);
        let mut container = json!({"name": name.replace(['.', '_'], "-"), "image": image});
        if let Some(port) = port {
            container["ports"] = json!([{"containerPort": port}]);
        }
        if !args.is_empty() {
            container["args"] = json!(args);
        }
        containers.push(container);
    }
    Ok(containers)
}

/// `80` or `80:http`.
fn port(text: &str) -> anyhow::Result<Value> {
    let (port, target) = text.split_once(':').unwrap_or((text, text));
    let number: u16 =
        port.parse().with_context(|| format!("{text:?} is not PORT or PORT:TARGETPORT"))?;
    let target = target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number));
    let name = text.replace(':', "-");
    Ok(json!({"name": name, "port": number, "protocol": "TCP", "targetPort": target}))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

impl Content {
    fn entries(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut entries = BTreeMap::new();
        let mut add = |key: String, value: Vec<u8>| match entries.insert(key.clone(), value) {
            Some(_) => bail!("the key {key:?} is given twice"),
            None => Ok(()),
        };
        for word in &self.from_literal {
            let (key, value) =
                word.split_once('=').with_context(|| format!("{word:?} is not KEY=VALUE"))?;
            add(key.to_string(), value.as_bytes().to_vec())?;
        }
        for word in &self.from_file {
            match word.split_once('=') {
                Some((key, path)) => add(key.to_string(), read(Path::new(path))?)?,
                None => {
                    for (key, path) in files(Path::new(word))? {
                        add(key, read(&path)?)?;
                    }
                }
            }
        }
        for path in &self.from_env_file {
            let text = std::fs::read_to_string(path).with_context(|| path.clone())?;
            let lines = text.lines().map(str::trim_start);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                // A bare name takes its value from the environment, as in kubectl.
                let (key, value) = match line.split_once('=') {
                    Some((key, value)) => (key, value.to_string()),
                    None => (line, std::env::var(line).unwrap_or_default()),
                };
                add(key.to_string(), value.into_bytes())?;
            }
        }
        Ok(entries)
    }
}

/// A file, or the files of a folder, by their names.
fn files(path: &Path) -> anyhow::Result<Vec<(String, std::path::PathBuf)>> {
    let place = || path.display().to_string();
    let name = |path: &Path| path.file_name().and_then(|n| n.to_str()).map(str::to_string);
    if !path.is_dir() {
        return Ok(vec![(name(path).with_context(place)?, path.to_path_buf())]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(place)? {
        let path = entry?.path();
        if let Some(name) = name(&path).filter(|_| path.is_file()) {
            found.push((name, path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        simple: Simple,
    }

    pub(super) fn of(words: &[&str]) -> anyhow::Result<Value> {
        let cli = Cli::try_parse_from([&["create"], words].concat())?;
        object(&cli.simple).map(|(value, _)| value)
    }

    #[test]
    fn deployments_and_services_belong_together() {
        let deployment =
            of(&["deploy", "web", "--image=r.io/x/hello.v1:2", "--port=80", "--", "a"]).unwrap();
        assert_eq!(
            deployment["spec"]["template"],
            json!({"metadata": {"labels": {"app": "web"}},
                   "spec": {"containers": [{"name": "hello-v1", "image": "r.io/x/hello.v1:2",
                                            "ports": [{"containerPort": 80}], "args": ["a"]}]}})
        );
        let service = of(&["svc", "clusterip", "web", "--tcp=80:8080"]).unwrap();
        assert_eq!(
            service["spec"],
            json!({"type": "ClusterIP", "selector": {"app": "web"},
                   "ports": [{"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080}]})
        );
    }

    #[test]
    fn entries_are_literals_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("text"), "t").unwrap();
        std::fs::write(path("raw"), [0xff, 0]).unwrap();
        std::fs::write(path("env"), "# no\nA=1=2\n").unwrap();
        let from = |option: &str, value: String| format!("--from-{option}={value}");
        let words = [
            from("literal", "l==".into()),
            from("file", path("text")),
            from("file", format!("k={}", path("raw"))),
            from("env-file", path("env")),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let map = of(&[&["cm", "x"], &words[..]].concat()).unwrap();
        assert_eq!(map["data"], json!({"l": "=", "text": "t", "A": "1=2"}));
        assert_eq!(map["binaryData"], json!({"k": "/wA="}));
        let secret = of(&["secret", "generic", "x", "--from-literal=a=b"]).unwrap();
        assert_eq!((&secret["type"], &secret["data"]["a"]), (&json!("Opaque"), &json!("Yg==")));
        let twice = of(&["cm", "x", "--from-literal=a=b", "--from-literal=a=c"]).unwrap_err();
        assert_eq!(twice.to_string(), "the key \"a\" is given twice");
    }
}
