//! `wasmctl autoscale`: a HorizontalPodAutoscaler for what has a scale, as kubectl makes one.

use anyhow::bail;
use serde_json::{Value, json};

use super::args::AutoscaleArgs;
use super::create;
use super::report::Report;
use super::selection::{self, Selected};
use super::session::Session;
use crate::api::quantity::Quantity;

pub async fn run(session: &Session, args: &AutoscaleArgs) -> anyhow::Result<()> {
    if let Some(min) = args.min.filter(|min| *min > args.max) {
        bail!("--max={} is less than --min={min}", args.max);
    }
    let mut report = Report::of(&args.outcome)?;
    let selected = selection::named(session, &args.what).await?;
    if args.name.is_some() && selected.len() > 1 {
        bail!("--name can be given for one object only");
    }
    for one in &selected {
        match autoscale(session, args, one).await {
            Ok((title, object)) => report.done(&title, "autoscaled", object)?,
            Err(error) => report.fail(error),
        }
    }
    report.finish()
}

async fn autoscale(
    session: &Session,
    args: &AutoscaleArgs,
    one: &Selected,
) -> anyhow::Result<(String, Value)> {
    if !one.resource.subresources.iter().any(|part| part == "scale") {
        bail!("{} cannot be scaled", one.title());
    }
    // An autoscaler of what is not there waits for it, and is most often a name mistyped.
    session.get_json(&one.path(Some(&session.namespace))).await?;
    let name = one.name.as_deref().unwrap_or_default();
    let reference = json!({
        "apiVersion": one.resource.gvr.api_version(), "kind": one.resource.kind, "name": name,
    });
    let made = autoscaler(args, name, reference);
    create::create_made(session, made, args.outcome.dry_run()).await
}

fn autoscaler(args: &AutoscaleArgs, target: &str, reference: Value) -> Value {
    let mut spec = json!({"scaleTargetRef": reference, "maxReplicas": args.max});
    if let Some(min) = args.min.filter(|min| *min >= 0) {
        spec["minReplicas"] = json!(min);
    }
    let percent = args.cpu_percent.filter(|percent| *percent > 0);
    let cpu = args.cpu.clone().or_else(|| percent.map(utilization));
    let targets = [("cpu", cpu), ("memory", args.memory.clone())].into_iter();
    let metrics = targets.filter_map(|(resource, target)| {
        let target = target?;
        Some(json!({"type": "Resource", "resource": {"name": resource, "target": target}}))
    });
    let metrics: Vec<Value> = metrics.collect();
    if !metrics.is_empty() {
        spec["metrics"] = json!(metrics);
    }
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": args.name.as_deref().unwrap_or(target)}, "spec": spec,
    })
}

/// `70%`, `500m`, or `500`, which is the same.
pub fn cpu_target(text: &str) -> Result<Value, String> {
    metric_target(text, "m")
}

/// `70%`, `200Mi`, or `200`, which is the same.
pub fn memory_target(text: &str) -> Result<Value, String> {
    metric_target(text, "Mi")
}

/// A MetricTarget of autoscaling/v2; the unit is that of a bare number.
fn metric_target(text: &str, unit: &str) -> Result<Value, String> {
    let form = || format!("{text:?} is neither a share such as 70% nor a number such as 200{unit}");
    if let Some(share) = text.strip_suffix('%') {
        let share = share.parse::<i32>().ok().filter(|share| *share > 0).ok_or_else(form)?;
        return Ok(utilization(share));
    }
    let amount = match text.parse::<u32>() {
        Ok(_) => format!("{text}{unit}"),
        Err(_) => text.to_string(),
    };
    match Quantity::parse(&amount) {
        Ok(quantity) if quantity.milli() > 0 => {
            Ok(json!({"type": "AverageValue", "averageValue": amount}))
        }
        _ => Err(form()),
    }
}

fn utilization(percent: i32) -> Value {
    json!({"type": "Utilization", "averageUtilization": percent})
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Verb};
    use super::*;

    fn of(words: &str) -> Result<Value, String> {
        let words = ["wasmctl", "autoscale", "deployment/web"].into_iter().chain(words.split(' '));
        match Cli::try_parse_from(words).map(|cli| cli.verb) {
            Ok(Verb::Autoscale(args)) => {
                Ok(autoscaler(&args, "web", json!({"kind": "Deployment"}))["spec"].take())
            }
            Ok(_) => panic!("another verb"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn targets_are_shares_or_numbers() {
        let metric = |name: &str, target: Value| {
            let resource = json!({"name": name, "target": target});
            json!({"type": "Resource", "resource": resource})
        };
        let value = |text: &str| json!({"type": "AverageValue", "averageValue": text});
        let spec = json!({"scaleTargetRef": {"kind": "Deployment"}, "maxReplicas": 5});
        let with = |min: Option<i32>, metrics: Vec<Value>| {
            let mut spec = spec.clone();
            spec["metrics"] = json!(metrics);
            if let Some(min) = min {
                spec["minReplicas"] = json!(min);
            }
            Ok(spec)
        };
        assert_eq!(of("--max=5"), Ok(spec.clone()));
        assert_eq!(of("--max=5 --min=-1 --cpu-percent=-1"), Ok(spec.clone()));
        let half = metric("cpu", utilization(50));
        assert_eq!(of("--max=5 --min=0 --cpu=50%"), with(Some(0), vec![half.clone()]));
        assert_eq!(of("--max=5 --min=2 --cpu-percent=50"), with(Some(2), vec![half]));
        let both = vec![metric("cpu", value("500m")), metric("memory", value("200Mi"))];
        assert_eq!(of("--max=5 --cpu=500 --memory=200"), with(None, both.clone()));
        assert_eq!(of("--max=5 --cpu=500m --memory=200Mi"), with(None, both));
        for wrong in ["--cpu=%", "--cpu=0%", "--cpu=-5", "--memory=much", "--cpu=0"] {
            let error = of(&format!("--max=5 {wrong}")).unwrap_err();
            assert!(error.contains("is neither a share"), "{wrong}: {error}");
        }
        for wrong in ["--min=1", "--max=0", "--max=5 --cpu=50% --cpu-percent=50"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
