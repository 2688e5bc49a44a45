//! What verbs about programs take.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
pub struct PushArgs {
    /// A .wasm file: a component, or a preview 1 module
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The image's name and tag, e.g. hello:v1
    #[arg(value_name = "NAME:TAG")]
    pub image: String,
}

#[derive(Args)]
pub struct InspectArgs {
    /// A .wasm file, or an image of the cluster's registry, e.g. hello:v1
    #[arg(value_name = "FILE|NAME:TAG")]
    pub what: String,
    /// Print as json, yaml, or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}
