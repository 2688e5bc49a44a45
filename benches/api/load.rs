//! Closed loops of many clients, and what a round of them cost.

use std::time::{Duration, Instant};

use crate::report::median;
use crate::stats;

/// One client: `run` does one operation and waits for its answer.
#[async_trait::async_trait]
pub trait Operation: Send + 'static {
    async fn run(&mut self) -> anyhow::Result<()>;
}

pub type Clients = Vec<Box<dyn Operation>>;

/// What came of one round.
pub struct Round {
    pub per_second: f64,
    /// Of the server process, in microseconds an operation.
    pub cpu_micros: f64,
    /// Of this process.
    pub generator_cpu_micros: f64,
    /// Sorted.
    pub times: Vec<Duration>,
}

/// Lets the clients run for a while, against the server with this process id, and gives them back.
pub async fn round(
    pid: u32,
    clients: Clients,
    length: Duration,
) -> anyhow::Result<(Clients, Round)> {
    let own = std::process::id();
    let (server, generator) = (stats::cpu_micros(pid)?, stats::cpu_micros(own)?);
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begin.elapsed() < length {
                let start = Instant::now();
                client.run().await?;
                times.push(start.elapsed());
            }
            anyhow::Ok((client, times))
        });
    }
    let (mut clients, mut times) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (client, of_client) = done??;
        clients.push(client);
        times.extend(of_client);
    }
    let passed = begin.elapsed().as_secs_f64();
    let count = times.len() as f64;
    times.sort();
    let round = Round {
        per_second: count / passed,
        cpu_micros: (stats::cpu_micros(pid)? - server) as f64 / count,
        generator_cpu_micros: (stats::cpu_micros(own)? - generator) as f64 / count,
        times,
    };
    Ok((clients, round))
}

/// The rounds of one of the two.
#[derive(Default)]
pub struct Rounds(pub Vec<Round>);

impl Rounds {
    pub fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.0.iter().map(of))
    }

    pub fn percentile(&self, share: f64) -> f64 {
        self.median(|round| stats::percentile(&round.times, share))
    }
}

/// Ours and the peer's clients take turns.
pub async fn turns(
    rounds: usize,
    length: Duration,
    ours: (u32, Clients),
    peer: Option<(u32, Clients)>,
) -> anyhow::Result<(Rounds, Option<Rounds>)> {
    let (pid, mut clients) = ours;
    let mut result = (Rounds::default(), peer.as_ref().map(|_| Rounds::default()));
    let mut peer = peer;
    for _ in 0..rounds {
        let (back, round) = self::round(pid, clients, length).await?;
        clients = back;
        result.0.0.push(round);
        if let (Some((pid, clients)), Some(rounds)) = (peer.take(), &mut result.1) {
            let (back, round) = self::round(pid, clients, length).await?;
            peer = Some((pid, back));
            rounds.0.push(round);
        }
    }
    Ok(result)
}

/// The middle, the least and the most of the rounds' ratios, which were measured side by side.
pub fn ratios(ours: &Rounds, peer: Option<&Rounds>, of: impl Fn(&Round) -> f64) -> String {
    let Some(peer) = peer else { return "-".into() };
    let mut all: Vec<f64> = ours.0.iter().zip(&peer.0).map(|(o, p)| of(o) / of(p)).collect();
    all.sort_by(f64::total_cmp);
    match (all.first(), all.last()) {
        (Some(least), Some(most)) => {
            format!("{:.2} ({least:.2}-{most:.2})", all[all.len() / 2])
        }
        _ => "-".into(),
    }
}
