//! What becomes of what a verb makes or takes away: stored or only tried, told or printed. Verbs say
//! what differs with them by `mut_arg`.

use clap::Args;

use crate::client::remote::Query;

/// What a command does instead of storing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DryRun {
    None,
    /// Nothing is sent.
    Client,
    /// The server checks, and stores nothing.
    Server,
}

impl DryRun {
    /// What follows the word of what was done.
    pub fn suffix(self) -> &'static str {
        match self {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }

    pub fn add_to(self, query: &mut Query) {
        query.add("dryRun", if self == DryRun::Server { "All" } else { "" });
    }
}

#[derive(Args)]
pub struct Trial {
    /// Only print (client), or let the server check and store nothing (server)
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "none",
          default_missing_value = "client", value_name = "HOW", hide_possible_values = true,
          hide_default_value = true)]
    pub dry_run: DryRun,
}

#[derive(Args)]
pub struct Outcome {
    #[command(flatten)]
    trial: Trial,
    /// Print the object: json, yaml or name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

impl Outcome {
    pub fn dry_run(&self) -> DryRun {
        self.trial.dry_run
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Verb};
    use super::DryRun;
    use crate::cli::generate::Simple;

    fn of(words: &str) -> DryRun {
        let words = ["wasmctl"].into_iter().chain(words.split(' '));
        match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).verb {
            Verb::Apply(args) => args.files.outcome.dry_run(),
            Verb::Create(args) => match args.simple {
                Some(Simple::Namespace { how, .. }) => how.dry_run(),
                Some(_) => panic!("another kind"),
                None => args.files.outcome.dry_run(),
            },
            Verb::Delete(args) => args.trial.dry_run,
            Verb::Autoscale(args) => args.outcome.dry_run(),
            Verb::Run(args) => args.outcome.dry_run(),
            _ => panic!("another verb"),
        }
    }

    #[test]
    fn a_bare_dry_run_is_the_servers_for_files_and_what_is_there_and_else_the_clients() {
        for (verb, bare) in [
            ("apply -f a.yaml", DryRun::Server),
            ("create -f a.yaml", DryRun::Server),
            ("delete pod a", DryRun::Server),
            ("create namespace a", DryRun::Client),
            ("autoscale deployment/web --max=2", DryRun::Client),
            ("run a --image=hello:v1", DryRun::Client),
        ] {
            assert_eq!(of(verb), DryRun::None, "{verb}");
            assert_eq!(of(&format!("{verb} --dry-run")), bare, "{verb}");
            assert_eq!(of(&format!("{verb} --dry-run=client")), DryRun::Client, "{verb}");
            assert_eq!(of(&format!("{verb} --dry-run=server")), DryRun::Server, "{verb}");
        }
    }
}
