//! Health: what `/readyz` and the reference's `/healthcheck` ask.

use std::fmt::Debug;

use async_trait::async_trait;

/// Asks each thing that Sluse needs whether it is there.
#[async_trait]
pub trait Readiness: Debug + Send + Sync + 'static {
    /// One answer per dependency, by name (`database`, `log` …). The error says what to look at; it holds no secret.
    /// Answers within a second or two, whatever the dependency does.
    async fn check(&self) -> Vec<(String, Result<(), String>)>;

    /// What is away without making this node useless, by name, and what it does without it.
    fn degraded(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
