//! What the rules of a definition may cost, told when it is defined: the limits and the texts of
//! upstream (k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation).
//!
//! A rule may be evaluated once for each element of the lists and maps that it is in. Where all of
//! these say how many they hold, that is how often; else it is as often as the value fits into a
//! request.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;

use crate::api::cel::schema::{MAX_REQUEST_BYTES, Shape};
use crate::api::field::{Errors, Path};

/// Of one rule, however often it is evaluated for one object; some seconds.
const RULE_LIMIT: u64 = 10_000_000;
/// Of all rules of a version.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// The rules that are named when all together cost too much, and what each must cost to be.
const MOST_NAMED: usize = 4;
const NAMED_ABOVE: u64 = SCHEMA_LIMIT / 100;

/// How often a rule may be evaluated for one object; none where the schema does not bound it.
pub type Times = Option<u64>;

/// The costs of a version's rules.
#[derive(Default)]
pub struct Costs {
    total: u64,
    /// Paths with costs, the dearest first.
    dearest: Vec<(String, u64)>,
}

/// How often for what is right below a node.
pub fn times_below(props: &ext::JSONSchemaProps, times: Times) -> Times {
    let count = |most: Option<i64>| most.map(|most| u64::try_from(most).unwrap_or(0));
    let factor = match props.type_.as_deref() {
        Some("object") if props.additional_properties.is_some() => count(props.max_properties),
        Some("array") => count(props.max_items),
        _ => Some(1),
    };
    Some(times?.saturating_mul(factor?))
}

impl Costs {
    /// Takes a rule in, whose one evaluation has this cost.
    pub fn rule(
        &mut self,
        cost: u64,
        shape: &Shape,
        times: Times,
        path: &Path,
        errors: &mut Errors,
    ) {
        let fit = MAX_REQUEST_BYTES / (shape.least_bytes + 1);
        let cost = cost.saturating_mul(times.unwrap_or(fit));
        self.one(cost, "estimated rule cost", path, errors);
    }

    /// Takes in the expression of a message, which is evaluated once.
    pub fn message(&mut self, cost: u64, path: &Path, errors: &mut Errors) {
        self.one(cost, "estimated messageExpression cost", path, errors);
    }

    fn one(&mut self, cost: u64, what: &str, path: &Path, errors: &mut Errors) {
        if cost > RULE_LIMIT {
            errors.forbidden(path, &exceeds(what, cost, RULE_LIMIT));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= NAMED_ABOVE {
            self.dearest.push((path.to_string(), cost));
            self.dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.dearest.truncate(MOST_NAMED);
        }
    }

    /// Tells if all together cost too much.
    pub fn finish(self, path: &Path, errors: &mut Errors) {
        if self.total <= SCHEMA_LIMIT {
            return;
        }
        for (path, _) in &self.dearest {
            let detail = "contributed to estimated rule & messageExpression cost total exceeding \
                          cost limit for entire OpenAPIv3 schema";
            errors.forbidden(&Path::new(path), detail);
        }
        let what = "x-kubernetes-validations estimated rule & messageExpression cost total for \
                    entire OpenAPIv3 schema";
        errors.forbidden(path, &exceeds(what, self.total, SCHEMA_LIMIT));
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        // So much comes of a missing bound: how much says nothing.
        factor if factor > 100.0 => "more than 100x".to_string(),
        // Not "by factor of 1.0x".
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
