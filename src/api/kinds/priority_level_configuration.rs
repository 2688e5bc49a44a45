//! PriorityLevelConfiguration (flowcontrol.apiserver.k8s.io/v1).
//!
//! Upstream: pkg/apis/flowcontrol/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    LimitResponse, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
    PriorityLevelConfigurationSpec, QueuingConfiguration,
};
use serde_json::{Value, json};

use super::{checks, flow_control, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

/// The level without limits, which alone is so called.
const EXEMPT_NAME: &str = "exempt";
const EXEMPT: &str = "Exempt";
const LIMITED: &str = "Limited";
const QUEUE: &str = "Queue";
const REJECT: &str = "Reject";
const DEFAULT_SHARES: i32 = 30;
const DEFAULT_QUEUES: i32 = 64;
const DEFAULT_HAND: i32 = 8;
const DEFAULT_QUEUE_LENGTH: i32 = 50;
const MOST_QUEUES: i32 = 10_000_000;
/// Bits of a hash that queues are dealt by.
const HASH_BITS: f64 = 60.0;

impl Kind for PriorityLevelConfiguration {
    const META: KindMeta = KindMeta {
        singular: "prioritylevelconfiguration",
        status: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        if let Some(limited) = &mut spec.limited {
            limited.nominal_concurrency_shares.get_or_insert(DEFAULT_SHARES);
            limited.lendable_percent.get_or_insert(0);
            let response = limited.limit_response.get_or_insert_default();
            if let Some(queuing) = &mut response.queuing {
                let defaults = [
                    (&mut queuing.queues, DEFAULT_QUEUES),
                    (&mut queuing.hand_size, DEFAULT_HAND),
                    (&mut queuing.queue_length_limit, DEFAULT_QUEUE_LENGTH),
                ];
                for (field, default) in defaults {
                    *field = field.filter(|value| *value != 0).or(Some(default));
                }
            }
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        validate_spec(errors, &path, name, &spec);
        let fixed = flow_control::fixed_spec(&mandatory(), name);
        // How much the exempt level lends is the administrator's.
        let comparable =
            |spec: &PriorityLevelConfigurationSpec| (spec.type_.clone(), spec.limited.clone());
        if fixed.is_some_and(|fixed| comparable(&fixed) != comparable(&spec)) {
            flow_control::must_be_fixed(errors, name, &spec);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        flow_control::validate_conditions(errors, conditions, |one| one.type_.as_deref());
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("PriorityLevelConfiguration")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Type", "string", "Whether the level is limited."),
            Column::new("NominalConcurrencyShares", "string", "Its share of what may run."),
            Column::new("Queues", "string", "How many queues it has."),
            Column::new("HandSize", "string", "How many queues a flow may use."),
            Column::new("QueueLengthLimit", "string", "How many requests a queue holds."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let cell = |value: Option<i32>| value.map_or(Value::from("<none>"), Value::from);
        // Upstream shows no share of the exempt level.
        let shares = spec.limited.as_ref().and_then(|level| level.nominal_concurrency_shares);
        let queuing = spec.limited.and_then(|l| l.limit_response).and_then(|r| r.queuing);
        vec![
            table::name(&self.metadata),
            spec.type_.into(),
            cell(shares),
            cell(queuing.as_ref().and_then(|queuing| queuing.queues)),
            cell(queuing.as_ref().and_then(|queuing| queuing.hand_size)),
            cell(queuing.as_ref().and_then(|queuing| queuing.queue_length_limit)),
            table::age(&self.metadata, now),
        ]
    }
}

/// The levels that every server has (pkg/apis/flowcontrol/bootstrap/default.go).
pub fn mandatory() -> [Value; 2] {
    [
        json!({"metadata": {"name": EXEMPT_NAME}, "spec": {"type": EXEMPT,
            "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}}),
        json!({"metadata": {"name": "catch-all"}, "spec": {"type": LIMITED,
            "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": REJECT}}}}),
    ]
}

fn validate_spec(
    errors: &mut Errors,
    path: &Path,
    name: &str,
    spec: &PriorityLevelConfigurationSpec,
) {
    if (name == EXEMPT_NAME) != (spec.type_ == EXEMPT) {
        let detail = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.invalid(&path.child("type"), &spec.type_, detail);
    }
    let (limited, exempt) = (path.child("limited"), path.child("exempt"));
    match spec.type_.as_str() {
        EXEMPT => {
            if spec.limited.is_some() {
                errors.forbidden(&limited, "must be nil if the type is not Limited");
            }
            if spec.exempt.is_none() {
                errors.required(&exempt, "must not be empty when type is Exempt");
            }
        }
        LIMITED => {
            if spec.exempt.is_some() {
                errors.forbidden(&exempt, "must be nil if the type is Limited");
            }
            match &spec.limited {
                Some(level) => validate_limited(errors, &limited, level),
                None => errors.required(&limited, "must not be empty when type is Limited"),
            }
        }
        other => errors.not_supported(&path.child("type"), other, &[EXEMPT, LIMITED]),
    }
    if let Some(level) = &spec.exempt {
        let shares = exempt.child("nominalConcurrencyShares");
        checks::nonnegative_if_set(errors, &shares, level.nominal_concurrency_shares);
        validate_percent(errors, &exempt.child("lendablePercent"), level.lendable_percent);
    }
}

fn validate_limited(errors: &mut Errors, path: &Path, level: &LimitedPriorityLevelConfiguration) {
    let shares = path.child("nominalConcurrencyShares");
    if let Some(count) = level.nominal_concurrency_shares.filter(|count| *count < 0) {
        errors.invalid(&shares, count, "must be a non-negative integer");
    }
    validate_percent(errors, &path.child("lendablePercent"), level.lendable_percent);
    if let Some(percent) = level.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let path = path.child("borrowingLimitPercent");
        errors.invalid(&path, percent, "if specified, must be a non-negative integer");
    }
    let response = level.limit_response.clone().unwrap_or_default();
    validate_response(errors, &path.child("limitResponse"), &response);
}

fn validate_percent(errors: &mut Errors, path: &Path, percent: Option<i32>) {
    if let Some(percent) = percent.filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(path, percent, "must be between 0 and 100, inclusive");
    }
}

fn validate_response(errors: &mut Errors, path: &Path, response: &LimitResponse) {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        (REJECT, Some(_)) => {
            errors.forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        (REJECT, None) => {}
        (QUEUE, None) => {
            errors.required(&at, "must not be empty if limited.limitResponse.type is Limited");
        }
        (QUEUE, Some(queuing)) => validate_queuing(errors, &at, queuing),
        (other, _) => errors.not_supported(&path.child("type"), other, &[QUEUE, REJECT]),
    }
}

fn validate_queuing(errors: &mut Errors, path: &Path, queuing: &QueuingConfiguration) {
    let length = queuing.queue_length_limit.unwrap_or_default();
    if length <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    let queues = queuing.queues.unwrap_or_default();
    if queues <= 0 {
        errors.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MOST_QUEUES {
        let detail = format!("must not be greater than {MOST_QUEUES}");
        errors.invalid(&path.child("queues"), queues, &detail);
    }
    let hand = queuing.hand_size.unwrap_or_default();
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS}"
        );
        errors.invalid(&at, hand, &detail);
    }
}

/// How many bits choose a hand of a deck (k8s.io/apiserver/pkg/util/shufflesharding).
fn entropy_bits(deck: i32, hand: i32) -> f64 {
    (f64::from(deck).log2() * f64::from(hand)).ceil()
}
