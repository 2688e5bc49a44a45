//! Clients of others, unmodified, against the built programs. A test says by name what it lacks.

mod custom;
mod guest_languages;
mod helm;
mod kubectl;
mod kubectl_access;
mod kubectl_autoscale;
mod kubectl_budget;
mod kubectl_policy;
mod kubectl_quota;
mod kubectl_rollout;
mod kubectl_storage;
mod kubectl_streams;
mod kubectl_table;
mod kubectl_webhook;
mod kubectl_workloads;
mod metrics;
mod operator;
mod python;
mod registries;
