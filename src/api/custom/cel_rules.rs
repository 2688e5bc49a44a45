//! Rules in CEL of a schema (`x-kubernetes-validations`): compiled once a version, and what a
//! definition is refused for (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go
//! and pkg/apis/apiextensions/validation). How they are applied to objects is in
//! [`super::cel_validate`], what they may cost in [`super::cel_cost`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;

use super::cel_cost::{Costs, Times, times_below};
use super::schema::Schema;
use crate::api::cel::schema::{Shape, ShapeKind};
use crate::api::cel::{CompileError, Env, Program, Type};
use crate::api::field::{Errors, Path};

/// Most rules of one version.
const MAX_RULES: usize = 1_000;
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The rules of one node of a schema, and of what is below it.
#[derive(Debug, Default)]
pub struct NodeRules {
    pub shape: Option<Arc<Shape>>,
    pub rules: Vec<Rule>,
    pub fields: BTreeMap<String, NodeRules>,
    pub items: Option<Box<NodeRules>>,
    pub values: Option<Box<NodeRules>>,
    /// Rules that stand in `allOf`, about the same value.
    pub all_of: Vec<NodeRules>,
}

#[derive(Debug)]
pub struct Rule {
    pub program: Program,
    pub message_program: Option<Program>,
    /// What is told where no expression makes a message.
    pub message: String,
    pub reason: String,
    /// Below the node, as it is appended to the node's path.
    pub field_path: String,
    pub optional_old_self: bool,
    pub uses_old_self: bool,
}

impl NodeRules {
    /// The rules of a version that was validated; none if there are none. What does not compile any
    /// more is left out.
    pub fn of(props: &ext::JSONSchemaProps, schema: &Schema) -> Option<NodeRules> {
        let shape = Shape::of(schema, true);
        Compiler::default().node(props, schema, shape, Place::ROOT, &Path::ROOT)
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.fields.is_empty()
            && self.items.is_none()
            && self.values.is_none()
            && self.all_of.is_empty()
    }
}

/// All that is wrong with the rules of a version's schema, which is structural.
pub fn check(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let schema = Schema::parse(props);
    let mut compiler = Compiler { errors: Some(errors), ..Compiler::default() };
    compiler.node(props, &schema, Shape::of(&schema, true), Place::ROOT, path);
    let count = compiler.count;
    if count > MAX_RULES {
        let detail = format!("must have at most {MAX_RULES} x-kubernetes-validations, has {count}");
        errors.forbidden(path, &detail);
    }
}

/// Tells of rules that may cost too much, in a schema without mistakes.
pub fn check_costs(props: &ext::JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let schema = Schema::parse(props);
    let costs = Some((Costs::default(), errors));
    let mut compiler = Compiler { costs, ..Compiler::default() };
    compiler.node(props, &schema, Shape::of(&schema, true), Place::ROOT, path);
    if let Some((costs, errors)) = compiler.costs {
        costs.finish(path, errors);
    }
}

#[derive(Default)]
struct Compiler<'a> {
    /// Where mistakes are told; nobody asks for those of a stored definition.
    errors: Option<&'a mut Errors>,
    /// Where costs are counted, if they are asked for, and where those that are too high are told.
    costs: Option<(Costs, &'a mut Errors)>,
    count: usize,
}

/// Where in a schema a node is.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The path of the list around it whose elements have no predecessors.
    uncorrelatable: Option<&'a str>,
    times: Times,
}

impl Place<'_> {
    const ROOT: Place<'static> = Place { uncorrelatable: None, times: Some(1) };
}

impl Compiler<'_> {
    fn node(
        &mut self,
        props: &ext::JSONSchemaProps,
        schema: &Schema,
        shape: Option<Arc<Shape>>,
        place: Place,
        path: &Path,
    ) -> Option<NodeRules> {
        let mut node = NodeRules::default();
        let list = props.x_kubernetes_validations.as_deref().unwrap_or_default();
        if !list.is_empty() {
            node.rules = self.rules(list, props, shape.as_ref(), place, path);
        }
        let place_below = Place { times: times_below(props, place.times), ..place };
        let properties = path.child("properties");
        for (name, field) in props.properties.iter().flatten() {
            let Some(known) = schema.properties.get(name) else { continue };
            let below = match shape.as_deref().map(|shape| &shape.kind) {
                Some(ShapeKind::Object { fields, .. }) => {
                    fields.get(name).map(|(_, shape)| shape.clone())
                }
                _ => None,
            };
            // A field that expressions cannot name has rules of its own all the same.
            let below = below.or_else(|| Shape::of(known, known.embedded));
            let at = properties.key(name);
            if let Some(rules) = self.node(field, known, below, place_below, &at) {
                node.fields.insert(name.clone(), rules);
            }
        }
        if let (Some(ext::JSONSchemaPropsOrArray::Schema(item)), Some(known)) =
            (&props.items, &schema.items)
        {
            let below = match shape.as_deref().map(|shape| &shape.kind) {
                Some(ShapeKind::List { item, .. }) => Some(item.clone()),
                _ => Shape::of(known, known.embedded),
            };
            let at = path.child("items");
            let own = path.to_string();
            let is_map = props.x_kubernetes_list_type.as_deref() == Some("map");
            let uncorrelatable = place.uncorrelatable.or((!is_map).then_some(own.as_str()));
            let place_below = Place { uncorrelatable, ..place_below };
            node.items = self.node(item, known, below, place_below, &at).map(Box::new);
        }
        if let (
            Some(ext::JSONSchemaPropsOrBool::Schema(values)),
            super::schema::Additional::Of(known),
        ) = (&props.additional_properties, &schema.additional)
        {
            let below = match shape.as_deref().map(|shape| &shape.kind) {
                Some(ShapeKind::Map(values)) => Some(values.clone()),
                _ => Shape::of(known, known.embedded),
            };
            let at = path.child("additionalProperties");
            node.values = self.node(values, known, below, place_below, &at).map(Box::new);
        }
        for (index, part) in props.all_of.iter().flatten().enumerate() {
            let at = path.child("allOf");
            let at = at.index(index);
            let own = self.node(part, schema, shape.clone(), place, &at);
            node.all_of.extend(own);
        }
        node.shape = shape;
        (!node.is_empty()).then_some(node)
    }

    fn rules(
        &mut self,
        list: &[ext::ValidationRule],
        props: &ext::JSONSchemaProps,
        shape: Option<&Arc<Shape>>,
        place: Place,
        path: &Path,
    ) -> Vec<Rule> {
        self.count += list.len();
        let at = path.child("x-kubernetes-validations");
        if self.count > MAX_RULES {
            return Vec::new();
        }
        let Some(shape) = shape else {
            if let Some(errors) = &mut self.errors {
                let detail = "rules need a schema that says the type of what they are about";
                errors.forbidden(&at, detail);
            }
            return Vec::new();
        };
        let type_ = shape.check_type();
        let plain = Env::new().with("self", type_.clone());
        let env = plain.clone().with("oldSelf", type_.clone());
        let optional = plain.with("oldSelf", Type::optional(type_));
        let mut unwatched = Errors::default();
        let errors = self.errors.as_deref_mut().unwrap_or(&mut unwatched);
        let mut rules = Vec::new();
        for (index, rule) in list.iter().enumerate() {
            let at = at.index(index);
            check_texts(rule, &at, errors);
            let env = if rule.optional_old_self == Some(true) { &optional } else { &env };
            let field_path = match rule.field_path.as_deref().filter(|text| !text.is_empty()) {
                Some(text) => field_path(text, props),
                None => Some(String::new()),
            };
            if field_path.is_none() {
                let text = rule.field_path.as_deref().unwrap_or_default();
                errors.invalid(&at.child("fieldPath"), text, "must be a valid path");
            }
            let Some(mut rule_) = compile(rule, env, &at, errors) else { continue };
            rule_.field_path = field_path.unwrap_or_default();
            match (rule_.uses_old_self, place.uncorrelatable) {
                (true, Some(within)) => {
                    let detail = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within \
                         {within}"
                    );
                    errors.invalid(&at.child("rule"), &rule.rule, &detail);
                }
                (false, _) if rule.optional_old_self.is_some() => {
                    let detail = "may not be set if oldSelf is not used in rule";
                    errors.invalid(&at.child("optionalOldSelf"), rule.optional_old_self, detail);
                }
                _ => {}
            }
            if let Some((costs, errors)) = &mut self.costs {
                let variables = [("self", shape.clone()), ("oldSelf", shape.clone())];
                let cost = rule_.program.estimate(&variables);
                costs.rule(cost, shape, place.times, &at.child("rule"), errors);
                if let Some(message) = &rule_.message_program {
                    let cost = message.estimate(&variables);
                    costs.message(cost, &at.child("messageExpression"), errors);
                }
            }
            rules.push(rule_);
        }
        rules
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn check_texts(rule: &ext::ValidationRule, at: &Path, errors: &mut Errors) {
    let has_newlines = |text: &str| text.contains(['\n', '\r']);
    let (body, message) = (rule.rule.trim(), text(&rule.message));
    if body.is_empty() {
        errors.required(&at.child("rule"), "rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&at.child("message"), message, "must be non-empty if specified");
    } else if has_newlines(message.trim()) {
        errors.invalid(&at.child("message"), message, "must not contain line breaks");
    } else if has_newlines(body) && message.is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.required(&at.child("message"), detail);
    }
    let expression = text(&rule.message_expression);
    if !expression.is_empty() && expression.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        errors.required(&at.child("messageExpression"), detail);
    }
    if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
        errors.not_supported(&at.child("reason"), reason, REASONS);
    }
    if has_newlines(text(&rule.field_path)) {
        let detail = "must not contain line breaks";
        errors.invalid(&at.child("fieldPath"), text(&rule.field_path), detail);
    }
}

fn compile(rule: &ext::ValidationRule, env: &Env, at: &Path, errors: &mut Errors) -> Option<Rule> {
    if rule.rule.trim().is_empty() {
        return None;
    }
    let program = match Program::compile_as(&rule.rule, env, &[Type::Bool]) {
        Ok(program) => program,
        Err(CompileError::Output(_)) => {
            let detail = "cel expression must evaluate to a bool";
            errors.invalid(&at.child("rule"), &rule.rule, detail);
            return None;
        }
        Err(error) => {
            errors.invalid(&at.child("rule"), &rule.rule, &error.to_string());
            return None;
        }
    };
    let expression = text(&rule.message_expression);
    let message_program = match expression.trim() {
        "" => None,
        _ => match Program::compile_as(expression, env, &[Type::String]) {
            Ok(program) => Some(program),
            Err(error) => {
                let detail = match error {
                    CompileError::Output(_) => "messageExpression must evaluate to a string".into(),
                    other => format!("messageExpression {other}"),
                };
                errors.invalid(&at.child("messageExpression"), expression, &detail);
                None
            }
        },
    };
    let message = match text(&rule.message).trim() {
        "" => format!("failed rule: {}", rule.rule.trim()),
        message => message.to_string(),
    };
    Some(Rule {
        uses_old_self: program.uses("oldSelf"),
        program,
        message_program,
        message,
        reason: text(&rule.reason).to_string(),
        field_path: String::new(),
        optional_old_self: rule.optional_old_self == Some(true),
    })
}

/// `.a.b['c.d']` as `a.b.c.d` is shown below a path, if the schema knows the field.
fn field_path(text: &str, props: &ext::JSONSchemaProps) -> Option<String> {
    let mut rest = text;
    let mut props = props;
    let mut shown = String::new();
    while !rest.is_empty() {
        let name;
        if let Some(tail) = rest.strip_prefix("['") {
            let end = tail.find("']")?;
            name = tail[..end].replace("\\'", "'");
            rest = &tail[end + 2..];
        } else {
            let tail = rest.strip_prefix('.')?;
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            name = tail[..end].to_string();
            rest = &tail[end..];
        }
        if let Some(properties) = &props.properties {
            props = properties.get(&name)?;
            if !shown.is_empty() {
                shown.push('.');
            }
            shown.push_str(&name);
        } else {
            match &props.additional_properties {
                Some(ext::JSONSchemaPropsOrBool::Schema(values)) => props = values,
                _ => return None,
            }
            shown.push_str(&format!("[{name}]"));
        }
    }
    Some(shown)
}
