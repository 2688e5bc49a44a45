//! `wasmctl`: the command line. Knowledge of kinds comes from the server's discovery, so the
//! generic verbs work for every kind that it serves. Prints only through `printer`.

mod apply;
mod args;
mod attach;
mod autoscale;
mod controllers;
mod cordon;
mod core_dump;
mod cp;
mod create;
mod delete;
mod describe;
mod discovery;
mod drain;
mod exec;
mod generate;
mod get;
mod inspect;
mod label;
mod logs;
mod manifest;
mod port_forward;
mod printer;
mod profile;
mod push;
mod reading;
mod report;
mod rollout;
mod run;
mod scale;
mod selection;
mod session;
mod set_image;
mod streams;
mod taint;
mod targets;
mod three_way;
mod top;
mod wait;
mod watch;
mod why;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Verb};
use session::Session;

/// The program: parses, runs one verb, and turns its error into one line and an exit code.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == reading::SUBCOMMAND) {
        return reading::child_main();
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(connect_and_run(cli));
    // Whoever still reads the terminal is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !is_broken_pipe(&error) {
                printer::note(&format!("error: {}", printer::error_text(&error)));
            }
            let pod = error.downcast_ref().map(run::PodFailed::exit_code);
            let command = error.downcast_ref().map(streams::CommandFailed::exit_code);
            pod.or(command).unwrap_or(ExitCode::FAILURE)
        }
    }
}

/// `wasmctl get pods | head` ends early, and that is fine.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn connect_and_run(cli: Cli) -> anyhow::Result<()> {
    if let Verb::Completion { shell } = cli.verb {
        clap_complete::generate(shell, &mut Cli::command(), "wasmctl", &mut std::io::stdout());
        return Ok(());
    }
    if let Verb::Inspect(args) = &cli.verb {
        return inspect::run(&cli.connection, args).await;
    }
    let session = Session::connect(&cli.connection).await?;
    match run_verb(&session, cli.verb).await {
        Err(error) if printer::is_unreachable(&error) => Err(error.context(session.server)),
        result => result,
    }
}

async fn run_verb(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Apply(args) => apply::run(session, &args).await,
        Verb::Create(args) => create::run(session, &args).await,
        Verb::Get(args) => get::run(session, &args).await,
        Verb::Why(args) => why::run(session, &args).await,
        Verb::Label(args) => label::run(session, &args, label::What::Labels).await,
        Verb::Annotate(args) => label::run(session, &args, label::What::Annotations).await,
        Verb::Cordon(args) => cordon::run(session, &args, true).await,
        Verb::Uncordon(args) => cordon::run(session, &args, false).await,
        Verb::Drain(args) => drain::run(session, &args).await,
        Verb::Taint(args) => taint::run(session, &args).await,
        Verb::Describe(args) => describe::run(session, &args).await,
        Verb::Delete(args) => delete::run(session, &args).await,
        Verb::Wait(args) => wait::run(session, &args).await,
        Verb::Logs(args) => logs::run(session, &args).await,
        Verb::Exec(args) => exec::run(session, &args).await,
        Verb::Attach(args) => attach::run(session, &args).await,
        Verb::PortForward(args) => port_forward::run(session, &args).await,
        Verb::Cp(args) => cp::run(session, &args).await,
        Verb::Top(args) => top::run(session, &args).await,
        Verb::Controllers(args) => controllers::run(session, &args).await,
        Verb::Profile(args) => profile::run(session, &args).await,
        Verb::CoreDump(args) => core_dump::run(session, &args).await,
        Verb::Scale(args) => scale::run(session, &args).await,
        Verb::Autoscale(args) => autoscale::run(session, &args).await,
        Verb::Rollout(args) => rollout::run(session, &args).await,
        Verb::Run(args) => run::run(session, &args).await,
        Verb::Set(args) => set_image::run(session, &args).await,
        Verb::Push(args) => push::run(session, &args).await,
        Verb::Images => push::images(session).await,
        Verb::ApiResources => discovery::print(session).await,
        Verb::Version => session.print_version().await,
        Verb::Inspect(_) | Verb::Completion { .. } => Ok(()),
    }
}
