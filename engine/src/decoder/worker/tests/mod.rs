//! Tests of the engine in this process; those of worker processes are in `engine/tests/decoder.rs`.

mod dialects;
mod isolation;
mod limits;
mod payload;
mod results;

use sluse_schema::device::Dialect;
use sluse_schema::port::{DecodeError, DecodeErrorKind};

use super::engine::{Call, Compiled, Engine, Outcome};
use crate::decoder::config::Limits;

pub(super) const METADATA: &str = r#"{"id":2,"createdAt":"2026-11-22T13:25:33.088Z","updatedAt":"2026-11-22T13:25:33.088Z","name":"Sensor","location":{"type":"Point","coordinates":[10.2,56.1]},"commentOnLocation":null,"comment":"c","metadata":"{\"k\":\"v\"}","type":"LORAWAN","application":{"id":1,"createdAt":"2026-11-22T13:25:33.055Z","updatedAt":"2026-11-22T13:25:33.055Z","name":"Egress","description":null,"startDate":"2026-01-01T00:00:00.000Z","endDate":null,"permissionIds":[]},"deviceModel":null}"#;

pub(super) fn engine() -> Engine {
    Engine::new(Limits::default()).unwrap()
}

pub(super) fn compile(engine: &Engine, source: &str) -> Compiled {
    engine.compile(source, None).unwrap_or_else(|e| panic!("{source}: {e}"))
}

/// The JSON text, or `undefined`, of one message.
pub(super) fn run(engine: &Engine, compiled: &Compiled, payload: &str) -> Result<String, DecodeError> {
    let mut out = Vec::new();
    let call = Call { payload: payload.as_bytes(), metadata: METADATA, received_at_ms: 1_700_000_000_000 };
    match engine.run(compiled, call, &mut out)? {
        Outcome::Value { .. } => Ok(String::from_utf8(out).expect("results are UTF-8")),
        Outcome::Nothing => Ok("undefined".into()),
    }
}

/// One message through a new decoder of this engine.
pub(super) fn once(engine: &Engine, source: &str, payload: &str) -> Result<String, DecodeError> {
    let compiled = engine.compile(source, None)?;
    run(engine, &compiled, payload)
}

/// The result of an expression over `payload` and `metadata`.
pub(super) fn value(engine: &Engine, expression: &str) -> Result<String, DecodeError> {
    once(engine, &format!("function decode(payload, metadata) {{ return {expression}; }}"), "{}")
}

pub(super) fn kind_of(result: Result<String, DecodeError>) -> DecodeErrorKind {
    match result {
        Ok(json) => panic!("expected an error, got {json}"),
        Err(error) => {
            assert!(error.message.len() <= 1_024 && !error.message.is_empty(), "{error:?}");
            error.kind
        }
    }
}

pub(super) fn with_dialect(
    engine: &Engine,
    source: &str,
    dialect: Dialect,
    payload: &str,
) -> Result<String, DecodeError> {
    let compiled = engine.compile(source, Some(dialect))?;
    run(engine, &compiled, payload)
}
